from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from sr_nas.search.alpha import Draw, gumbel_softmax, in_pass, softmax

ALPHA = torch.tensor([-1.0, 0.0, 0.5, 1.5], dtype=torch.float64)


def test_softmax() -> None:
    torch.testing.assert_close(softmax(ALPHA, temperature=0.5), (2 * ALPHA).exp() / (2 * ALPHA).exp().sum())
    assert in_pass(softmax, (0, 0, 0), 0.0) is softmax


@pytest.mark.parametrize(("epoch", "temperature"), [(1, 1.0), (76, 0.515), (150, 0.03 + 0.97 / 150)])
def test_gumbel_softmax_by_its_formula(epoch: int, temperature: float) -> None:
    """Over the 150 epochs of SNAS, from 1 towards 0.03."""
    progress = (epoch - 1) / 150
    noise = torch.from_numpy(np.random.default_rng([3, 4]).gumbel(size=4))
    expected = ((ALPHA + noise) / temperature).exp()
    found = gumbel_softmax(ALPHA, Draw((3, 4), progress))
    torch.testing.assert_close(found, expected / expected.sum())


def test_the_largest_of_a_sample_is_distributed_as_softmax_of_alpha() -> None:
    draw, count = Draw((0, 0, 0), 1.0), 4000
    largest = torch.stack([gumbel_softmax(ALPHA, draw).argmax() for _ in range(count)]).bincount(minlength=4)
    expected = count * ALPHA.softmax(0)
    assert ((largest - expected).square() / expected).sum() < 11.3  # chi-square, 3 degrees of freedom, 1%


def test_a_cold_sample_is_nearly_one_hot_and_a_warm_one_is_not() -> None:
    def mean_largest(progress: float) -> float:
        draw = Draw((1,), progress)
        return torch.stack([gumbel_softmax(ALPHA, draw).max() for _ in range(300)]).mean().item()

    assert mean_largest(1.0) > 0.98
    assert mean_largest(0.0) < 0.8


def test_gumbel_softmax_has_the_gradient_of_its_sample() -> None:
    logits = ALPHA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: gumbel_softmax(a, Draw((5,), 0.5)), (logits,))


def test_without_a_draw_it_is_the_distribution_itself() -> None:
    torch.testing.assert_close(gumbel_softmax(ALPHA, temperature=0.1), ALPHA.softmax(0))


def test_what_is_drawn_depends_on_the_address_alone() -> None:
    relaxation = partial(gumbel_softmax, temperature=2.0)

    def both(*address: int) -> torch.Tensor:
        drawing = in_pass(relaxation, address, 0.2)
        return torch.stack([drawing(ALPHA), drawing(ALPHA)])

    first = both(7, 5, 0)
    assert torch.equal(first, both(7, 5, 0))
    assert not torch.equal(first[0], first[1]), "each choice of a pass has noise of its own"
    for other in ((8, 5, 0), (7, 6, 0), (7, 5, 1)):
        assert not torch.isclose(first, both(*other)).any()
