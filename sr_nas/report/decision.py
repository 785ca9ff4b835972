"""How decisive a search was: movement of alpha from its initialisation, and the margin of every selected candidate."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sr_nas.genotype import Choices


@dataclass(frozen=True)
class Decision:
    """Attributes:
    initial_spread: population standard deviation of alpha within a choice before the first step, mean over the choices.
        A shift common to a choice, which softmax does not see, is not in it.
    final_spread: the same after the last epoch.
    weakest: label -> beta of the weakest selected candidate; the winner's where one is selected.
    margin: label -> that beta minus the strongest one dropped. Choices that keep all candidates are in neither.
    """

    initial_spread: float
    final_spread: float
    weakest: dict[str, float]
    margin: dict[str, float]


def decision(history: Sequence[Mapping[str, Any]], choices: Choices) -> Decision:
    """Compare the last epoch with epoch 0, the record made before any step (see ``Searcher.record``)."""
    first, last = history[0], history[-1]
    picks = {label: choice.picks for label, choice in choices.items() if choice.picks < len(choice.candidates)}
    return Decision(
        initial_spread=_spread(first["alpha"]),
        final_spread=_spread(last["alpha"]),
        weakest={label: sorted(last["beta"][label])[-count] for label, count in picks.items()},
        margin={label: selection_margin(last["beta"][label], count) for label, count in picks.items()},
    )


def selection_margin(beta: Sequence[float], picks: int = 1) -> float:
    """Return beta of the weakest of ``picks`` selected candidates minus that of the strongest one dropped, 0..1.

    For one pick this is the top-2 gap of SA-DARTS, table 1.
    """
    ranked = sorted(beta, reverse=True)
    return ranked[picks - 1] - ranked[picks]


def _spread(alpha: Mapping[str, Sequence[float]]) -> float:
    return statistics.fmean(statistics.pstdev(logits) for logits in alpha.values())
