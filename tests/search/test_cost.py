from __future__ import annotations

import pytest
import torch

from sr_nas.search.objective import expected_cost, normalised_cost

TABLE = {"one": torch.tensor([1.0, 3.0]), "two": torch.tensor([10.0, 20.0, 70.0])}


def test_equation_18_by_hand() -> None:
    weights = {"one": torch.tensor([0.25, 0.75]), "two": torch.tensor([0.2, 0.3, 0.5])}
    expected = ((0.25 * 1 + 0.75 * 3) / 4 + (0.2 * 10 + 0.3 * 20 + 0.5 * 70) / 100) / 2
    assert normalised_cost(weights, TABLE).item() == pytest.approx(expected)
    assert expected_cost(weights, TABLE).item() == pytest.approx(0.25 + 2.25 + 2 + 6 + 35)


def test_the_gradient_reaches_every_alpha_and_favours_the_cheap() -> None:
    alpha = {label: torch.zeros(len(costs), requires_grad=True) for label, costs in TABLE.items()}
    normalised_cost({label: logits.softmax(0) for label, logits in alpha.items()}, TABLE).backward()
    for label, logits in alpha.items():
        assert logits.grad is not None
        assert (logits.grad != 0).all()
        assert logits.grad.argsort().tolist() == TABLE[label].argsort().tolist()
