"""How much of a decision a search's outcome is: how far alpha moved from its random start, and how clearly one wins."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sr_nas.errors import UserError
from sr_nas.genotype import Choices, Genotype
from sr_nas.runs.files import write_json, write_text
from sr_nas.runs.run_dir import new_run


@dataclass(frozen=True)
class Decision:
    """Attributes:
    initial_spread: mean over the choices of the standard deviation of alpha within a choice, before the first step.
        Shifts common to a choice, which softmax does not see, are not in it.
    final_spread: the same after the last epoch.
    kept: label -> beta of the weakest candidate kept; where one is kept, of the winner.
    lead: label -> that beta minus the strongest one dropped; where one is kept, the top-2 gap of SA-DARTS, table 1.
        Choices that keep all their candidates decide nothing and are in neither.
    """

    initial_spread: float
    final_spread: float
    kept: dict[str, float]
    lead: dict[str, float]


def decision(history: Sequence[dict[str, Any]], choices: Choices) -> Decision:
    """Judge a history whose first record is of epoch 0, before any step (see ``Searcher.record``)."""
    first, last = history[0], history[-1]
    open_to = {label: choice.picks for label, choice in choices.items() if choice.picks < len(choice.candidates)}
    ranked = {label: sorted(last["beta"][label], reverse=True) for label in open_to}
    return Decision(
        initial_spread=_spread(first["alpha"]),
        final_spread=_spread(last["alpha"]),
        kept={label: beta[open_to[label] - 1] for label, beta in ranked.items()},
        lead={label: beta[open_to[label] - 1] - beta[open_to[label]] for label, beta in ranked.items()},
    )


def _spread(alpha: dict[str, list[float]]) -> float:
    return statistics.fmean(statistics.pstdev(logits) for logits in alpha.values())


# MERGED sr_nas.analysis.history: What SA-DARTS reads off a search's history: how far beta sets candidates
# apart, how alpha lies, how much is skipped.
#
# Everything follows from what :meth:`sr_nas.search.searcher.Searcher.record` keeps of an epoch, by label of the
# choice; give
# only the labels that a figure is about (``labels_of``), since a gap means nothing where a choice keeps
# several.


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


# MERGED sr_nas.analysis.history: What a search's history says in one number per epoch, and what several seeds
# of one method say together.


Values = npt.NDArray[np.float64]
Record = Mapping[str, Any]

_COUNTED = ("params", "macs_")


def gap_labels(choices: Choices) -> list[str]:
    """Return the labels whose top-2 gap means something: of operations, of which one is kept and more than one offered."""
    return [label for label in labels_of(choices) if choices[label].picks == 1 and len(choices[label].candidates) > 1]


def quantities(history: Sequence[Record], choices: Choices, operation: str = "skip_connect") -> dict[str, Values]:
    """Return every number that a history has for its epochs, NaN in those that have none.

    These are ``alpha_mean``, ``alpha_median`` and ``alpha_std`` over all logits of operations; ``gap_worst`` and ``gap_mean``,
    the smallest and the mean top-2 gap of beta over the choices; ``share_<operation>`` where it is a candidate; the size of the
    network that would be kept (``params``, ``macs_...``), its true accuracies (``cifar10_test``, ...), the mean losses
    (``loss_task``: of alpha's batches, ``loss_train``: of the weights') and ``seconds``, each where the history has them.
    """
    found = [_numbers(record, choices, operation) for record in history]
    names = dict.fromkeys(name for numbers in found for name in numbers)
    return {name: np.array([numbers.get(name, np.nan) for numbers in found], dtype=np.float64) for name in names}


def mean_and_std(trials: Sequence[Values]) -> tuple[Values, Values]:
    """Return the mean over trials, and the sample standard deviation (divided by n - 1), which is NaN for a single one."""
    stacked = np.stack(trials)
    mean: Values = stacked.mean(axis=0)
    return mean, stacked.std(axis=0, ddof=1) if len(stacked) > 1 else np.full_like(mean, np.nan)


def _numbers(record: Record, choices: Choices, operation: str) -> dict[str, float]:
    labels = labels_of(choices)
    alpha = alpha_statistics(record["alpha"], labels)
    found: dict[str, float] = {"alpha_mean": alpha.mean, "alpha_median": alpha.median, "alpha_std": alpha.std}
    gaps = top2_gaps(record["beta"], gap_labels(choices))
    if gaps:
        found |= {"gap_worst": min(gaps.values()), "gap_mean": float(np.mean(list(gaps.values())))}
    if any(operation in choices[label].candidates for label in labels):
        found[f"share_{operation}"] = share_of(operation, Genotype.from_json(record["genotype"]), choices)
    found |= {name: value for name, value in record.items() if name.startswith(_COUNTED)}
    for data, accuracies in record.get("true_accuracy", {}).items():
        found |= {f"{data}_{part}": value for part, value in accuracies.items()}
    found |= {f"loss_{name}": value for name, value in record["loss"].items()}
    return found | {"seconds": record["seconds"]}


# MERGED sr_nas.analysis.history: Where an analysis writes: a folder of its own, beside what is there.


ROOT = Path("analyses")


def check_output(given: Path | None) -> None:
    """Raise UserError where a folder that the user has named holds something already."""
    if given is not None and given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise UserError(f"-o {given}: there is something already, and nothing is written over. Name a new folder.")


def open_output(given: Path | None, name: str) -> Path:
    """Make and return the folder that the user has named, or ``analyses/<name>``, numbered where that exists.

    Raises:
        UserError: as :func:`check_output`.
    """
    check_output(given)
    if given is None:
        return new_run(ROOT, name)
    given.mkdir(parents=True, exist_ok=True)
    return given


def write_csv(path: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; what is not known stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([["" if known(value) is None else value for value in row] for row in rows])
    write_text(path, text.getvalue())


def write_numbers(path: Path, content: Any) -> None:
    """Write JSON, which knows no NaN: what is not known is null."""
    write_json(path, known(content))


def known(value: Any) -> Any:
    """Return a value with every NaN in it replaced by ``None``."""
    if isinstance(value, dict):
        return {key: known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [known(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def spread(mean: float, std: float, form: str, std_form: str | None = None) -> str:
    """Write ``mean ± std``, or the mean alone where there is one trial, or a dash where nothing is known."""
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" if math.isnan(std) else f"{mean:{form}} ± {std:{std_form or form}}"
