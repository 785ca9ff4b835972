"""How much of a decision a search's outcome is: how far alpha moved from its random start, and how clearly one wins."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sr_nas.genotype import Choices


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
