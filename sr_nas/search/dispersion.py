"""What SA-DARTS reads off a search's history: how far beta sets candidates apart, how alpha lies, how much is skipped.

Everything follows from what :meth:`sr_nas.search.searcher.Searcher.record` keeps of an epoch, by label of the choice; give
only the labels that a figure is about (``labels_of``), since a gap means nothing where a choice keeps several.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sr_nas.genotype import Choices, Genotype

ByLabel = Mapping[str, Sequence[float]]
"""label -> one number per candidate, as a record has alpha and beta."""


@dataclass(frozen=True)
class AlphaStatistics:
    """Mean, median and population standard deviation over all logits together (figure 3)."""

    mean: float
    median: float
    std: float


def labels_of(choices: Choices, of: Literal["operations", "inputs"] = "operations") -> list[str]:
    """Return the labels of the choices of operations, or of inputs."""
    return [label for label, choice in choices.items() if choice.of == of]


def top2_gap(beta: Sequence[float]) -> float:
    """Return the largest beta minus the second largest, of at least two; 0 where they are equal (table 1)."""
    first, second = sorted(beta, reverse=True)[:2]
    return first - second


def top2_gaps(beta: ByLabel, labels: Sequence[str]) -> dict[str, float]:
    """Return the top-2 gap of every label."""
    return {label: top2_gap(beta[label]) for label in labels}


def closest_label(trials: Sequence[ByLabel], labels: Sequence[str]) -> str:
    """Return the label whose top-2 gap has the smallest mean over trials: the one edge that table 1 compares methods on.

    Args:
        trials: beta of one epoch of each trial.
        labels: to choose from; of equals the first is taken.
    """
    return min(labels, key=lambda label: statistics.fmean(top2_gap(beta[label]) for beta in trials))


def alpha_statistics(alpha: ByLabel, labels: Sequence[str]) -> AlphaStatistics:
    """Return the statistics of all logits of these labels."""
    values = [value for label in labels for value in alpha[label]]
    return AlphaStatistics(statistics.fmean(values), statistics.median(values), statistics.pstdev(values))


def share_of(name: str, genotype: Genotype, choices: Choices) -> float:
    """Return which share of the operations that a network keeps is ``name``, e.g. ``"skip_connect"``; inputs do not count.

    What an operation reads, written behind it as in ``skip_connect~0``, makes no difference.
    """
    inputs = labels_of(choices, "inputs")
    kept = [operation.partition("~")[0] for label, names in genotype.picks if label not in inputs for operation in names]
    return kept.count(name) / len(kept)
