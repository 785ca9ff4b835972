"""Metrics of a search's history: separation of beta, statistics of alpha, share of an operation, size, accuracy, losses.

A history is a list of records, one per epoch, as :meth:`sr_nas.search.searcher.Searcher.record` makes them; epoch 0 is the
state before the first step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sr_nas.genotype import Choices, Genotype
from sr_nas.report.decision import selection_margin
from sr_nas.report.plots import Values

Record = Mapping[str, Any]
"""One epoch of a search."""
ByLabel = Mapping[str, Sequence[float]]
"""label -> one number per candidate, as a record holds alpha and beta."""

TITLES = {
    "gap_worst": "top-2 gap, worst choice",
    "gap_mean": "top-2 gap, mean of choices",
    "loss_task": "loss on alpha's images",
    "loss_train": "loss on weights' images",
}


@dataclass(frozen=True)
class Trials:
    """A quantity of several runs over the same epochs: ``[runs, epochs]``, or ``[runs, epochs, candidates]``."""

    epochs: Sequence[int]
    values: Values

    @property
    def mean(self) -> Values:
        """Mean over the runs."""
        mean: Values = self.values.mean(axis=0)
        return mean

    @property
    def std(self) -> Values:
        """Sample standard deviation over the runs (divided by n - 1); NaN for a single run."""
        std: Values = self.values.std(axis=0, ddof=1) if len(self.values) > 1 else np.full_like(self.values[0], np.nan)
        return std

    def last(self, unit: float = 1.0, form: str = ".4g", std_form: str = ".2g") -> str:
        """Return ``mean ± std`` of the last epoch in a unit, the mean alone of one run, or a dash where it is unknown."""
        mean, std = self.mean[-1] / unit, self.std[-1] / unit
        if math.isnan(mean):
            return "-"
        return f"{mean:{form}}" if math.isnan(std) else f"{mean:{form}} ± {std:{std_form}}"


def labels_of(choices: Choices, of: Literal["operations", "inputs"] = "operations") -> list[str]:
    """Return the labels of the choices of operations, or of inputs."""
    return [label for label, choice in choices.items() if choice.of == of]


def gap_labels(choices: Choices) -> list[str]:
    """Return the labels with a top-2 gap: choices of operations that keep one of several candidates."""
    return [label for label in labels_of(choices) if choices[label].picks == 1 and len(choices[label].candidates) > 1]


def top2_gaps(beta: ByLabel, labels: Sequence[str]) -> dict[str, float]:
    """Return the largest beta minus the second largest by label; 0 where they are equal (SA-DARTS, table 1)."""
    return {label: selection_margin(beta[label]) for label in labels}


def closest_label(trials: Sequence[ByLabel], labels: Sequence[str]) -> str:
    """Return the label whose top-2 gap has the smallest mean over trials, the edge of table 1; of equal ones the first."""
    return min(labels, key=lambda label: statistics.fmean(selection_margin(beta[label]) for beta in trials))


def share_of(operation: str, genotype: Genotype, choices: Choices) -> float:
    """Return the share of an operation, e.g. ``"skip_connect"``, among the operations of a network, 0..1.

    Selected inputs do not count, and ``skip_connect~0``, which names what the operation reads, is ``skip_connect``.
    """
    inputs = labels_of(choices, "inputs")
    selected = [name.partition("~")[0] for label, names in genotype.picks if label not in inputs for name in names]
    return selected.count(operation) / len(selected)


def quantities(history: Sequence[Record], choices: Choices, operation: str = "skip_connect") -> dict[str, Values]:
    """Return every scalar of a history, ``[epochs]``, NaN for epochs without it.

    These are ``alpha_mean``, ``alpha_median`` and ``alpha_std`` (of the population) over all logits of operations;
    ``gap_worst`` and ``gap_mean``, the smallest and the mean top-2 gap of beta over :func:`gap_labels`; ``share_<operation>``
    where that is a candidate; ``params`` and ``macs_...`` of the network that would be derived; its true accuracies
    (``cifar10_test``, ...); the mean losses (``loss_task`` of alpha's batches, ``loss_train`` of the weights') and ``seconds``.
    """
    epochs = [_scalars(record, choices, operation) for record in history]
    names = dict.fromkeys(name for scalars in epochs for name in scalars)
    return {name: np.array([scalars.get(name, np.nan) for scalars in epochs], dtype=np.float64) for name in names}


def _scalars(record: Record, choices: Choices, operation: str) -> dict[str, float]:
    labels = labels_of(choices)
    logits = np.concatenate([record["alpha"][label] for label in labels])
    scalars = {"alpha_mean": logits.mean(), "alpha_median": np.median(logits), "alpha_std": logits.std()}
    if gaps := list(top2_gaps(record["beta"], gap_labels(choices)).values()):
        scalars |= {"gap_worst": min(gaps), "gap_mean": statistics.fmean(gaps)}
    if any(operation in choices[label].candidates for label in labels):
        scalars[f"share_{operation}"] = share_of(operation, Genotype.from_json(record["genotype"]), choices)
    scalars |= {name: value for name, value in record.items() if name.startswith(("params", "macs_"))}
    for dataset, accuracies in record.get("true_accuracy", {}).items():
        scalars |= {f"{dataset}_{part}": value for part, value in accuracies.items()}
    return scalars | {f"loss_{name}": value for name, value in record["loss"].items()} | {"seconds": record["seconds"]}


def axis_label(quantity: str) -> tuple[str, float]:
    """Return the title of a quantity of :func:`quantities`, and the divisor that brings it into the title's unit."""
    if quantity == "params":
        return "parameters, thousands", 1e3
    if quantity.startswith("macs_"):
        convention, _, size = quantity.removeprefix("macs_").rpartition("_")
        return (f"MACs, {convention.upper()} {size}, G", 1e9) if convention else (f"MACs, {size}, M", 1e6)
    name, _, part = quantity.rpartition("_")
    if part in ("valid", "test"):
        return f"true {name} {part}, %", 1.0
    return TITLES.get(quantity) or quantity.replace("share_", "share of ").replace("alpha_", "alpha, "), 1.0


def upper_bound(quantity: str) -> float | None:
    """Return the largest possible value of a quantity that lies between 0 and it, or ``None`` where it is unbounded."""
    if quantity.startswith(("gap_", "share_")):
        return 1.0
    return 100.0 if quantity.endswith(("_valid", "_test")) else None
