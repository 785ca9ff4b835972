"""How much of a decision a search's outcome is: how far alpha moved from its random start, and how clearly one wins."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """Attributes:
    initial_spread: mean over the choices of the standard deviation of alpha within a choice, before the first step.
        Shifts common to a choice, which softmax does not see, are not in it.
    final_spread: the same after the last epoch.
    winner: label -> beta of the winner.
    top2_gap: label -> beta of the winner minus beta of the runner-up (SA-DARTS, table 1).
    """

    initial_spread: float
    final_spread: float
    winner: dict[str, float]
    top2_gap: dict[str, float]


def decision(history: Sequence[dict[str, Any]]) -> Decision:
    """Judge a history whose first record is of epoch 0, before any step (see ``Searcher.record``)."""
    first, last = history[0], history[-1]
    ranked = {label: sorted(beta, reverse=True) for label, beta in last["beta"].items()}
    return Decision(
        initial_spread=_spread(first["alpha"]),
        final_spread=_spread(last["alpha"]),
        winner={label: beta[0] for label, beta in ranked.items()},
        top2_gap={label: beta[0] - beta[1] for label, beta in ranked.items()},
    )


def _spread(alpha: dict[str, list[float]]) -> float:
    return statistics.fmean(statistics.pstdev(logits) for logits in alpha.values())
