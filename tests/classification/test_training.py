"""Losses of classifiers by their formulas, and drop-path over a training by DARTS's."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import pytest
import torch

from sr_nas.classification.darts import DARTS
from sr_nas.classification.nasbench201 import NASBench201
from sr_nas.classification.training import DropPathSchedule, cross_entropy, with_auxiliary
from sr_nas.errors import UserError


def darts() -> DARTS:
    return DARTS(channels=2, num_cells=3)


def test_it_rises_in_steps_of_an_epoch() -> None:
    """DARTS sets drop_path_prob * epoch / epochs, counted from 0, as an epoch begins; here 4 epochs of 3 iterations."""
    network = darts()
    schedule = DropPathSchedule(network, 0.2, Fraction(3), 12, seed=0)
    found = []
    for iteration in range(12):
        schedule(iteration)
        found.append(network.drop_path)
    assert found == pytest.approx([0.2 * epoch / 4 for epoch in range(4) for _ in range(3)])


def test_epochs_that_no_whole_number_of_iterations_makes() -> None:
    """5 batches an epoch and 2 an iteration: iteration i begins with batch 2 i, and 8 iterations reach into the fourth epoch."""
    schedule = DropPathSchedule(darts(), 0.4, Fraction(5, 2), 8, seed=0)
    assert [schedule.probability(i) for i in range(8)] == pytest.approx([0.4 * (2 * i // 5) / 4 for i in range(8)])


def test_an_iteration_leaves_out_the_same_whatever_was_drawn_before() -> None:
    def draws(iteration: int, seed: int = 0, rank: int = 0) -> torch.Tensor:
        torch.rand(iteration + 7)
        DropPathSchedule(darts(), 0.2, Fraction(1), 10, seed, rank)(iteration)
        return torch.rand(4)

    assert torch.equal(draws(5), draws(5))
    assert not any(torch.equal(draws(5), other) for other in (draws(6), draws(5, seed=1), draws(5, rank=1)))


def test_a_network_that_leaves_nothing_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.drop_path: NASBench201 has no operations to leave out"):
        DropPathSchedule(NASBench201(channels=2, num_cells=1), 0.2, Fraction(1), 10, seed=0)
    DropPathSchedule(NASBench201(channels=2, num_cells=1), 0.0, Fraction(1), 10, seed=0)(0)


LOGITS = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]], dtype=torch.float64)
AUXILIARY = torch.tensor([[0.0, 1.0, 1.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([1, 0])


def by_hand(logits: torch.Tensor, smoothing: float = 0.0) -> float:
    """The mean of -sum_c q_c log p_c, with q = (1 - smoothing) one-hot + smoothing / classes (Szegedy et al. 2016, eq. 2)."""
    total = 0.0
    for row, right in zip(logits.tolist(), TARGET.tolist(), strict=True):
        log_p = [value - torch.logsumexp(torch.tensor(row, dtype=torch.float64), 0).item() for value in row]
        q = [smoothing / 3 + (1 - smoothing) * (place == right) for place in range(3)]
        total -= sum(share * value for share, value in zip(q, log_p, strict=True))
    return total / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_what_an_auxiliary_head_adds(smoothing: float) -> None:
    loss = partial(cross_entropy, label_smoothing=smoothing)
    assert loss(LOGITS, TARGET).item() == pytest.approx(by_hand(LOGITS, smoothing), rel=1e-12)
    combined = with_auxiliary(loss, 0.4)
    expected = by_hand(LOGITS, smoothing) + 0.4 * by_hand(AUXILIARY, smoothing)
    assert combined((LOGITS, AUXILIARY), TARGET).item() == pytest.approx(expected, rel=1e-12)
    assert combined(LOGITS, TARGET).item() == pytest.approx(by_hand(LOGITS, smoothing), rel=1e-12)
