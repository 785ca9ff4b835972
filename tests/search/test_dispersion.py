from __future__ import annotations

import pytest

from sr_nas.analysis.history import alpha_statistics, closest_label, labels_of, share_of, top2_gap, top2_gaps
from sr_nas.genotype import Choice, Genotype

CHOICES = {"edge1": Choice(("none", "skip", "conv")), "edge2": Choice(("none", "skip", "conv"))} | {
    "inputs": Choice(("a", "b", "skip"), picks=2, of="inputs")
}
TRIALS = [
    {"edge1": [0.5, 0.2, 0.3], "edge2": [0.25, 0.4, 0.35], "inputs": [0.4, 0.3, 0.3]},
    {"edge1": [0.3, 0.36, 0.34], "edge2": [0.5, 0.1, 0.4], "inputs": [0.4, 0.3, 0.3]},
]


def test_the_gap_is_between_the_two_largest() -> None:
    assert top2_gap([0.1, 0.6, 0.3]) == pytest.approx(0.3)
    assert top2_gap([0.5, 0.5]) == 0
    assert top2_gaps(TRIALS[0], labels_of(CHOICES)) == pytest.approx({"edge1": 0.2, "edge2": 0.05})


def test_all_trials_are_compared_on_the_edge_of_the_smallest_mean_gap() -> None:
    labels = labels_of(CHOICES)
    assert labels == ["edge1", "edge2"] and labels_of(CHOICES, "inputs") == ["inputs"]
    assert closest_label(TRIALS, labels) == "edge2"  # mean gaps 0.11 and 0.075, and edge1 has the smallest single one
    assert closest_label(TRIALS[1:], labels) == "edge1"


def test_alpha_is_described_over_all_its_choices() -> None:
    found = alpha_statistics({"edge1": [-2.0, 0.0, 1.0], "edge2": [3.0, 3.0, 1.0], "inputs": [1e9]}, labels_of(CHOICES))
    assert (found.mean, found.median) == (1.0, 1.0)
    assert found.std == pytest.approx((18 / 6) ** 0.5)


def test_the_share_of_skips_is_of_operations() -> None:
    picks = (("edge1", ("skip",)), ("edge2", ("conv",)), ("inputs", ("skip", "a")))
    assert share_of("skip", Genotype("Toy", picks), CHOICES) == 0.5
    assert share_of("none", Genotype("Toy", picks), CHOICES) == 0
