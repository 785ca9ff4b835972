"""Losses, drop-path and accuracy of classifiers, by their formulas."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sr_nas.classification.darts import DARTS
from sr_nas.classification.nasbench201 import NASBench201
from sr_nas.classification.task import DropPathSchedule, cross_entropy, evaluate_classifier, hits, with_auxiliary
from sr_nas.errors import UserError
from sr_nas.inference.tiles import NonFiniteOutput


def test_by_hand() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]] * 4)
    assert [hits(logits, torch.tensor([0, 1, 4, 5]), k) for k in (1, 2, 5, 6)] == [1, 2, 3, 4]


def test_a_network_that_prefers_nothing_names_nothing() -> None:
    logits, target = torch.zeros(3, 6), torch.tensor([0, 2, 5])
    assert (hits(logits, target, 1), hits(logits, target, 5)) == (0, 0)
    assert hits(torch.zeros(3, 4), torch.tensor([0, 2, 3]), 5) == 3, "of four classes, any is among five"


def test_a_set_by_sorting() -> None:
    """Batches of unequal size count by their images; the network's mode is left as it was, and eval is what it runs in."""
    random = np.random.default_rng(0)
    logits, target = random.normal(size=(23, 10)).astype(np.float32), random.integers(0, 10, 23)
    order = np.argsort(-logits, axis=1)
    expected = {f"top{k}": 100 * np.mean([right in row[:k] for right, row in zip(target, order, strict=True)]) for k in (1, 5)}
    batches = [
        (torch.from_numpy(logits[start : start + 8]), torch.from_numpy(target[start : start + 8])) for start in range(0, 23, 8)
    ]
    network = nn.Dropout(0.9).train()
    assert evaluate_classifier(network, batches, "cpu") == pytest.approx(expected | {"images": 23})
    assert network.training


def test_what_is_not_finite_is_no_accuracy() -> None:
    with pytest.raises(NonFiniteOutput):
        evaluate_classifier(nn.Identity(), [(torch.tensor([[1.0, float("nan")]]), torch.tensor([0]))], "cpu")


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


def darts() -> DARTS:
    return DARTS(channels=2, num_cells=3)


def test_it_rises_in_steps_of_an_epoch() -> None:
    """DARTS sets drop_path_prob * epoch / epochs, counted from 0, as an epoch begins; here 4 epochs of 3 iterations."""
    network = darts()
    schedule = DropPathSchedule(network, 0.2, Fraction(3), 12, seed=0)
    probabilities = []
    for iteration in range(12):
        schedule(iteration)
        probabilities.append(network.drop_path)
    assert probabilities == pytest.approx([0.2 * epoch / 4 for epoch in range(4) for _ in range(3)])


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
