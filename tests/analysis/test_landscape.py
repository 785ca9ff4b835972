"""Directions of the stated length, and a surface that is known in closed form."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from sr_nas.analysis.landscape import over_plane, random_direction

ALPHA = {"a": torch.tensor([-7.0, -4.0, -4.0], dtype=torch.float64), "b": torch.tensor([0.0, 3.0], dtype=torch.float64)}


def test_a_direction_is_as_long_as_alpha_without_its_common_part() -> None:
    result = random_direction(ALPHA, (0, 0), "alpha")
    # Centred, alpha is (-2, 1, 1) and (-1.5, 1.5).
    assert result["a"].norm() == pytest.approx(6**0.5) and result["b"].norm() == pytest.approx(4.5**0.5)
    assert all(part.sum() == pytest.approx(0.0, abs=1e-12) for part in result.values())
    assert all(part.norm() == pytest.approx(1.0) for part in random_direction(ALPHA, (0, 0), "unit").values())


def test_what_all_logits_share_changes_no_direction() -> None:
    shifted = {label: logits - 100 for label, logits in ALPHA.items()}
    for label, part in random_direction(shifted, (3, 1), "alpha").items():
        assert torch.allclose(part, random_direction(ALPHA, (3, 1), "alpha")[label], atol=1e-12)


def test_directions_depend_on_the_seed_alone() -> None:
    first, again, other = (random_direction(ALPHA, seed, "unit")["a"] for seed in ((5, 0), (5, 0), (5, 1)))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_plane_is_measured_at_alpha_plus_both_steps() -> None:
    first, second = (random_direction(ALPHA, (0, number), "alpha") for number in (0, 1))
    steps = [-1.0, 0.0, 2.0]

    def measure(alpha: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"square": float(sum(logits.square().sum() for logits in alpha.values())), "first": float(alpha["a"][0])}

    result = over_plane(measure, ALPHA, (first, second), steps, Console(quiet=True))
    dot = [[float(sum((x[k] * y[k]).sum() for k in ALPHA)) for y in (ALPHA, first, second)] for x in (ALPHA, first, second)]
    for row, b in enumerate(steps):
        for column, a in enumerate(steps):
            coefficients = (1.0, a, b)
            square = sum(dot[i][j] * coefficients[i] * coefficients[j] for i in range(3) for j in range(3))
            assert result["square"][row, column] == pytest.approx(square)
            assert result["first"][row, column] == pytest.approx(float(ALPHA["a"][0] + a * first["a"][0] + b * second["a"][0]))
