"""How the network of a training is judged: on which images, by what, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_nas.training.trainer import Trainer

Scores = Mapping[str, Any]
"""Means of one set, by metric, and whatever else is kept of it."""


@dataclass(frozen=True)
class Judge:
    """What a training does not share with one of another task once it runs.

    Attributes:
        sets: names of the validation sets; the first one judges which network is the best.
        metrics: what a set's scores have; the first is judged by, and more is better.
        heading: what is measured, in words.
        unit: of the first metric, as it follows a number.
        words: says the scores of a set.
        measure: name -> scores of the network that a trainer keeps.

            Raises:
                Diverged: what it gives is not finite.
        told: what a network's file says of its training beyond what all do, JSON-ready.
        beginning: lines that a run begins with.
        picture: draws into a finished run's folder, and says what.
    """

    sets: Sequence[str]
    metrics: tuple[str, ...]
    heading: str
    unit: str
    words: Callable[[Scores], str]
    measure: Callable[[Trainer], dict[str, Any]]
    told: Mapping[str, Any] = field(default_factory=dict)
    beginning: Sequence[str] = ()
    picture: Callable[[Path], Sequence[str]] = lambda folder: ()

    def means(self, record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The mean scores of a record, without those of each image."""
        return {name: {key: scores[key] for key in self.metrics} for name, scores in record.get("val", {}).items()}

    def by_metric(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The mean scores of a record by names that TensorBoard groups: a chart per metric and set."""
        return {f"{key}/{name}": value for name, scores in self.means(record).items() for key, value in scores.items()}
