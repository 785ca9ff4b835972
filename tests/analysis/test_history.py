"""Metrics of histories, against values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sr_nas.analysis.history import Trials, quantities, settled, top2_gaps
from sr_nas.genotype import Choice
from sr_nas.report.progress import decision

CHOICES = {
    "a": Choice(("skip_connect", "conv")),
    "b": Choice(("skip_connect", "conv")),
    "inputs": Choice(("0", "1", "2"), picks=2, of="inputs"),
}


def record(epoch: int, selected: str, loss: dict[str, float]) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "alpha": {"a": [0.0, 2.0], "b": [4.0, -2.0], "inputs": [9.0, 9.0, 9.0]},
        "beta": {"a": [0.3, 0.7], "b": [0.55, 0.45], "inputs": [0.4, 0.3, 0.3]},
        "loss": loss,
        "genotype": {"arch": "X", "genotype": {"a": selected, "b": "skip_connect~0", "inputs": ["skip_connect", "1"]}},
        "truth": {"cifar10": {"valid": 50.0 + epoch, "test": 60.0 + epoch}},
        "params": 7,
        "seconds": 0.5,
    }


def test_quantities_are_of_operations_alone() -> None:
    values = quantities([record(0, "conv", {}), record(1, "skip_connect", {"task": 2.0})], CHOICES)
    assert values["alpha_mean"].tolist() == [1.0, 1.0] and values["alpha_median"].tolist() == [1.0, 1.0]
    assert values["alpha_std"] == pytest.approx([5**0.5] * 2)  # of 0, 2, 4, -2 around 1
    assert values["gap_worst"] == pytest.approx([0.1] * 2) and values["gap_mean"] == pytest.approx([0.25] * 2)
    assert values["share_skip_connect"].tolist() == [0.5, 1.0]
    assert values["cifar10_test"].tolist() == [60.0, 61.0] and values["params"].tolist() == [7.0, 7.0]
    assert np.isnan(values["loss_task"][0]) and values["loss_task"][1] == 2.0
    assert "share_none" not in quantities([record(0, "conv", {})], CHOICES, "none")


def test_gaps_are_of_choices_that_keep_one_of_several() -> None:
    beta = {"a": [0.1, 0.6, 0.3], "b": [0.5, 0.5], "one": [1.0], "inputs": [0.4, 0.3, 0.3]}
    assert top2_gaps(beta, CHOICES | {"one": Choice(("conv",))}) == pytest.approx({"a": 0.3, "b": 0.0})


@pytest.mark.parametrize(("picks", "epoch"), [("abbb", 1), ("aaaa", 0), ("abab", 3), ("bbac", 3)])
def test_the_epoch_from_which_a_network_stays(picks: str, epoch: int) -> None:
    history = [record(number, pick, {}) for number, pick in enumerate(picks)]
    assert settled(history) == epoch
    assert settled([*history, record(9, "c", {}) | {"selection": {}}]) == epoch, "not of alpha alone"


def test_the_deviation_is_that_of_a_sample() -> None:
    trials = Trials([0, 1], np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]]))
    assert trials.mean.tolist() == [3.0, 0.0] and trials.std == pytest.approx([7**0.5, 0.0])  # (4 + 1 + 9) / 2
    single = Trials([0], np.array([[1.5]]))
    assert np.isnan(single.std).all() and (single.last(), Trials([0], np.array([[np.nan]])).last()) == ("1.5", "-")
    assert Trials([0], np.array([[1e9], [3e9]])).last(1e9) == "2 ± 1.4"


def test_a_decision_by_hand() -> None:
    choices = {"op": Choice(("x", "y", "z")), "pair": Choice(("0", "1", "2", "3"), picks=2, of="inputs")}
    choices |= {"all": Choice(("0", "1"), picks=2, of="inputs")}
    start = {"alpha": {"op": [1.0, 2.0, 6.0], "pair": [0.0, 0.0, 0.0, 4.0], "all": [5.0, 5.0]}, "beta": {}}
    end = {"alpha": {"op": [0.0] * 3, "pair": [2.0, -2.0, 2.0, -2.0], "all": [1.0, 3.0]}}
    end["beta"] = {"op": [0.2, 0.5, 0.3], "pair": [0.05, 0.6, 0.1, 0.25], "all": [0.5, 0.5]}
    end["genotype"] = {"arch": "", "genotype": {"op": "y", "pair": ["1", "3"]}}
    result = decision([start, end], choices)
    # Population deviations: sqrt(14/3), sqrt(3) and 0; then 0, 2 and 1.
    assert result.initial_spread == pytest.approx(((14 / 3) ** 0.5 + 3**0.5) / 3) and result.final_spread == pytest.approx(1.0)
    # Of a pair the weaker one counts, .25, and not .6.
    assert result.weakest == {"op": 0.5, "pair": 0.25} and result.margin == pytest.approx({"op": 0.2, "pair": 0.15})
    # A network that a budget or a selection chose; and one that does not name the choice.
    end["genotype"] = {"arch": "", "genotype": {"op": "x"}}
    result = decision([start, end], choices)
    assert result.weakest == {"op": 0.2, "pair": 0.25} and result.margin == pytest.approx({"op": -0.3, "pair": 0.15})
