"""Settings of a sweep: the quantities of each of their runs, with the costs of its network, and statistics over the seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from sr_nas.analysis.history import axis_label, quantities, read_run
from sr_nas.contracts import Network, SRNetwork
from sr_nas.errors import UserError, nearest
from sr_nas.export.model import load_structure
from sr_nas.genotype import Genotype
from sr_nas.jobs.latency import latency_of
from sr_nas.jobs.trials import Trial
from sr_nas.report.plots import Values
from sr_nas.task import complexity_of

QUANTITIES = (
    r"alpha_(mean|median|std)|gap_(worst|mean)|share_.+|loss_[a-z]+|seconds|params|macs_.+|latency_ms"
    r"|(.+_)?(valid|test|psnr|ssim|top1|top5|regret)"
)
"""Pattern of all quantities of searches and trainings."""
BETTER = r"gap_.+|(.+_)?(valid|test|psnr|ssim|top1|top5)"
"""Pattern of the quantities of which more is better; of all others it is less."""
COSTS = r"params|macs_.+|latency_ms"
"""Pattern of the quantities that a table has besides."""
TRAINED = {"loss_train": "loss", "loss_distill": "distillation loss"}
"""Titles of quantities of trainings that searches have, too."""
ROUNDS = 5
"""Times that each network is run, for its latency."""
NETWORK = "network"
"""The first axis of a sweep of a search's networks: their names, which begin with their kinds."""
Axes = Mapping[str, Sequence[str]]
"""``section:...:key`` of an option -> its values, as the user wrote them in YAML."""


def quantities_of(trial: Trial, until: int) -> dict[str, float]:
    """Return the quantities of a run at an epoch or iteration.

    Of a search those of :func:`sr_nas.analysis.history.quantities`; of a training ``<set>_<metric>`` for every validation set,
    the first set first, and its losses, ``loss_train`` that of the task.
    """
    folder, record = cast(tuple[Path, dict[str, Any]], trial.record(until))
    if trial.command == "search":
        values = quantities([record], read_run(folder).choices)
        return {name: float(value[0]) for name, value in values.items()}
    scores = {
        f"{title}_{metric}": score
        for title, scores in record.get("val", {}).items()
        for metric, score in scores.items()
        if isinstance(score, int | float)
    }
    names = {"loss": "loss_train", "distill": "loss_distill"}
    return scores | {text: record[name] for name, text in names.items() if name in record}


def more_is_better(quantity: str) -> bool:
    """Return whether the best trial is the one with the largest value."""
    return re.fullmatch(BETTER, quantity) is not None


def pick(by: str | None, numbers: Mapping[str, float]) -> str:
    """Return the quantity that ``by`` names, in full or by its last part, such as ``psnr``; by default the loss of a search's
    alpha, or a training's first score, else its loss.

    Raises:
        UserError: there is none.
    """
    # The true scores of a search, from a table, are for who judges it afterwards.
    wanted = [by] if by else ["loss_task", r".+_(psnr|top1)", "loss_train"]
    patterns = [text if not by else rf"(.+_)?{re.escape(text)}" for text in wanted]
    for pattern in patterns:
        if name := (by if by in numbers else next((name for name in numbers if re.fullmatch(pattern, name)), None)):
            return name
    raise UserError(f"--by: there is no '{by}'{nearest(str(by), numbers)} There are: {', '.join(numbers)}.")


@dataclass(frozen=True)
class Done:
    """What a setting came to: its runs, one a seed, each with the epoch or iteration that it has come to.

    Attributes:
        values: of the axes.
        runs: without those that failed.
        whole: whether the runs have come to their ends, and no halving ended them before.
    """

    values: tuple[str, ...]
    runs: Sequence[tuple[Trial, int]]
    whole: bool = True

    @cached_property
    def numbers(self) -> list[dict[str, float]]:
        """Quantities of each run."""
        return [quantities_of(trial, until) for trial, until in self.runs]

    def title(self, name: str) -> str:
        """Return a quantity in words; what a training has measured is not of a table of true scores."""
        words = axis_label(name)[0]
        return words if self.runs[0][0].command == "search" else TRAINED.get(name, words.removeprefix("true "))

    def of(self, name: str) -> Values:
        """Return a quantity of all runs, ``[seeds]``; NaN where one has none."""
        return np.array([numbers.get(name, np.nan) for numbers in self.numbers], dtype=np.float64)


def statistics(values: Values, name: str) -> dict[str, float]:
    """Return mean, sample standard deviation (NaN for one value), median, and the best and the worst of a quantity."""
    best, worst = (values.max(), values.min()) if more_is_better(name) else (values.min(), values.max())
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    numbers = {"mean": values.mean(), "sd": sd, "median": np.median(values), "best": best, "worst": worst}
    return {key: float(number) for key, number in numbers.items()}


def add_networks(results: Sequence[Done]) -> dict[str, str]:
    """Add the costs of their networks to the quantities of all runs: counts, and latency on this device, of super-resolution.

    Returns:
        Name of a trial -> its genotype, where it has one.
    """
    genotypes: dict[str, str] = {}
    networks: dict[str, Network] = {}
    users: dict[str, list[dict[str, float]]] = {}
    for done in results:
        for (trial, until), numbers in zip(done.runs, done.numbers, strict=True):
            folder, record = cast(tuple[Path, dict[str, Any]], trial.record(until))
            if trial.command == "search":
                genotypes[trial.name] = str(Genotype.from_json(record["genotype"]))
                if not done.whole:  # a search that was ended before has written no network
                    continue
            key = str(folder) if trial.command == "search" else trial.options.network_g.model_dump_json()
            if key not in networks:
                networks[key] = load_structure(folder if trial.command == "search" else trial.file)
            users.setdefault(key, []).append(numbers)
            if trial.command == "train" and (genotype := getattr(networks[key], "genotype", None)) is not None:
                genotypes[trial.name] = str(genotype)
    timed = {key: network for key, network in networks.items() if isinstance(network, SRNetwork)}
    times = dict(zip(timed, latency_of(list(timed.values()), ROUNDS)[0], strict=True)) if timed else {}
    for key, network in networks.items():
        counts = {name: count for name, count in complexity_of(network).items() if name.startswith(("params", "macs_"))}
        for numbers in users[key]:
            numbers |= counts | ({"latency_ms": times[key]} if key in times else {})
    return genotypes


def short_keys(axes: Axes) -> list[str]:
    """Return the last word of every key, or as many of its last words as make all of them different."""
    words = [key.split(":") for key in axes]
    if not words:
        return []
    names = (["_".join(word[-count:]) for word in words] for count in range(1, max(map(len, words)) + 1))
    return next(keys for keys in names if len(set(keys)) == len(keys))


def trials_of(count: int) -> str:
    """Return a number of trials in words."""
    return f"{count} trial{'s' * (count != 1)}"
