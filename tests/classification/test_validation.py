"""Top-1 and top-5, by hand and by sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sr_nas.classification.validation import evaluate_classifier, hits
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
