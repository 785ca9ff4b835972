"""What a search's history says in one number per epoch, and what several seeds of one method say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_nas.genotype import Choices, Genotype
from sr_nas.search.dispersion import alpha_statistics, labels_of, share_of, top2_gaps

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
