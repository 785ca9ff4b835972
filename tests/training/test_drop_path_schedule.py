"""Drop-path over a training, by DARTS's formula, and that what is left out is addressed."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sr_nas.classification.darts import DARTS
from sr_nas.classification.nasbench201 import NASBench201
from sr_nas.classification.training import DropPathSchedule
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
