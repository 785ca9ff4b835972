from __future__ import annotations

import pytest
import torch

from sr_nas.classification.darts_operations import drop_path


def test_whole_samples_are_dropped_and_the_expectation_stays() -> None:
    torch.manual_seed(0)
    x = torch.rand(20_000, 2, 2, 2) + 1
    result = drop_path(x, 0.3)
    share = (result / x).flatten(1)
    kept = share[:, 0] != 0
    assert ((share != 0) == kept[:, None]).all(), "a sample is kept or dropped as a whole"
    torch.testing.assert_close(share[kept], torch.full_like(share[kept], 1 / 0.7))
    # Three standard deviations of a share of 20,000 draws.
    assert kept.double().mean().item() == pytest.approx(0.7, abs=3 * (0.3 * 0.7 / 20_000) ** 0.5)


def test_nothing_is_drawn_at_0() -> None:
    x, state = torch.rand(2, 3, 4, 4), torch.get_rng_state()
    assert drop_path(x, 0.0) is x and torch.equal(torch.get_rng_state(), state)
