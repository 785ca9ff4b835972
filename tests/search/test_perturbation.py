"""Perturbations of beta, against the rules of SDARTS's public code written out edge by edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_nas.search.alpha import Draw
from sr_nas.search.perturbation import adversarial, clipped, uniform

ADDRESS, PROGRESS = (5, 3, 2), 0.4
EPSILON = 0.03 + 0.4 * 0.27
BETA = {
    "one": torch.tensor([0.05, 0.6, 0.35], dtype=torch.float64),
    "two": torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64),
}
SLOPES = {
    "one": torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64),
    "two": torch.tensor([-2.0, 1.0, 0.1, 0.0], dtype=torch.float64),
}


def steep(weights: Any) -> Tensor:
    """A loss whose gradient changes its sign within epsilon."""
    return sum((weights[label] * SLOPES[label]).sum().sin() + (weights[label] - 0.3).square().sum() for label in BETA)  # type: ignore[return-value]


def on_the_simplex(line: Any) -> Any:
    best, line = int(line.argmax()), line.clip(0, 1)
    if line.sum() == 0:
        line[best] = 1
    return line / line.sum()


def by_hand(loss: Any, steps: int) -> dict[str, Any]:
    """Random start, steps along the sign of the gradient, clipped to the ball and then to the simplex."""
    random = np.random.default_rng(ADDRESS)
    beta = {label: weight.numpy() for label, weight in BETA.items()}
    moved = {label: on_the_simplex(own + EPSILON * random.uniform(-1, 1, len(own))) for label, own in beta.items()}
    for _ in range(steps):
        at = {label: torch.tensor(value, requires_grad=True) for label, value in moved.items()}
        loss(at).backward()
        for label, own in beta.items():
            there = moved[label] + 2 * EPSILON / steps * np.sign(at[label].grad.numpy())  # type: ignore[union-attr]
            moved[label] = on_the_simplex(own + (there - own).clip(-EPSILON, EPSILON))
    return moved


def test_noise_by_hand() -> None:
    found = uniform(BETA, steep, Draw(ADDRESS, PROGRESS))
    for label, expected in by_hand(steep, 0).items():
        np.testing.assert_allclose(found[label], expected, atol=1e-12)
    assert all(torch.equal(weight, BETA[label]) for label, weight in uniform(BETA, steep, Draw(ADDRESS, 0.0), start=0).items())


@pytest.mark.parametrize("steps", [1, 7])
def test_the_worst_weights_by_hand(steps: int) -> None:
    found, expected = adversarial(BETA, steep, Draw(ADDRESS, PROGRESS), steps=steps), by_hand(steep, steps)
    for label, values in expected.items():
        np.testing.assert_allclose(found[label], values, atol=1e-12)
        assert not found[label].requires_grad
    assert steep(found) > steep(BETA)


def test_weights_stay_where_their_own_loss_is_larger() -> None:
    """The gradient leads down where it is measured on another loss than the one that is compared."""
    calls: list[Tensor] = []

    def loss(weights: Any) -> Tensor:
        calls.append(steep(weights))
        return -calls[-1] if torch.is_grad_enabled() else calls[-1]

    found = adversarial(BETA, loss, Draw(ADDRESS, PROGRESS))
    assert len(calls) == 7 + 2 and calls[-2] < calls[-1]
    assert all(torch.equal(found[label], weight) for label, weight in BETA.items())


def test_weights_are_clipped_and_keep_their_sum() -> None:
    own, moved = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-0.1, 1.4, 0.25])
    torch.testing.assert_close(clipped(own, moved), torch.tensor([0.0, 0.8, 0.2]))
    torch.testing.assert_close(clipped(2 * own, moved), torch.tensor([0.0, 1.6, 0.4]))
    torch.testing.assert_close(clipped(torch.tensor([0.5, 0.0, 0.5]), moved + 0.15), torch.tensor([0.05 / 0.45, 0.0, 0.4 / 0.45]))
    assert clipped(own, torch.tensor([-0.3, -0.1, -0.2])).tolist() == [0, 1, 0]
    with_dropped = torch.tensor([0.5, 0.0, 0.5])
    assert clipped(with_dropped, torch.tensor([-0.3, -0.1, -0.2])).tolist() == [0, 0, 1]
