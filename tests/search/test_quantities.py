"""One number per epoch, against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sr_nas.analysis.history import gap_labels, mean_and_std, quantities
from sr_nas.genotype import Choice

CHOICES = {
    "a": Choice(("skip_connect", "conv")),
    "b": Choice(("skip_connect", "conv")),
    "inputs": Choice(("0", "1", "2"), picks=2, of="inputs"),
}


def record(epoch: int, kept: str, loss: dict[str, float]) -> dict[str, object]:
    return {
        "epoch": epoch,
        "alpha": {"a": [0.0, 2.0], "b": [4.0, -2.0], "inputs": [9.0, 9.0, 9.0]},
        "beta": {"a": [0.3, 0.7], "b": [0.55, 0.45], "inputs": [0.4, 0.3, 0.3]},
        "loss": loss,
        "genotype": {"arch": "X", "genotype": {"a": kept, "b": "skip_connect~0", "inputs": ["0", "1"]}},
        "true_accuracy": {"cifar10": {"valid": 50.0 + epoch, "test": 60.0 + epoch}},
        "params": 7,
        "seconds": 0.5,
    }


def test_a_history_gives_numbers_of_its_operations_alone() -> None:
    found = quantities([record(0, "conv", {}), record(1, "skip_connect", {"task": 2.0})], CHOICES)
    assert found["alpha_mean"].tolist() == [1.0, 1.0] and found["alpha_median"].tolist() == [1.0, 1.0]
    assert found["alpha_std"] == pytest.approx([5**0.5] * 2)  # of 0, 2, 4, -2 around 1
    assert found["gap_worst"] == pytest.approx([0.1] * 2) and found["gap_mean"] == pytest.approx([0.25] * 2)
    assert found["share_skip_connect"].tolist() == [0.5, 1.0]
    assert found["cifar10_test"].tolist() == [60.0, 61.0] and found["params"].tolist() == [7.0, 7.0]
    assert np.isnan(found["loss_task"][0]) and found["loss_task"][1] == 2.0
    assert "share_none" not in quantities([record(0, "conv", {})], CHOICES, "none")


def test_gaps_are_of_choices_that_keep_one_of_several() -> None:
    assert gap_labels(CHOICES | {"one": Choice(("conv",))}) == ["a", "b"]


def test_the_deviation_is_that_of_a_sample() -> None:
    mean, std = mean_and_std([np.array([1.0, 0.0]), np.array([2.0, 0.0]), np.array([6.0, 0.0])])
    assert mean.tolist() == [3.0, 0.0] and std == pytest.approx([7**0.5, 0.0])  # (4 + 1 + 9) / 2
    assert np.isnan(mean_and_std([np.array([1.0])])[1]).all()
