"""Losses of classifiers, by their formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sr_nas.classification.training import cross_entropy, with_auxiliary

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
