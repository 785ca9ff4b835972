"""Histories of searches as numbers over the epochs, and searches that differ in their seeds alone as one method.

A history has a record per epoch, as :meth:`sr_nas.search.searcher.Searcher.record` makes it; epoch 0 is the initial state.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sr_nas.errors import UserError, listing
from sr_nas.genotype import Choices, Genotype
from sr_nas.jobs.trials import OPTION_FILES
from sr_nas.options.load import FREE, decisive, load_options, read_options
from sr_nas.options.sections import AnySearch
from sr_nas.report.plots import Values
from sr_nas.runs.run_dir import OPTIONS, read_history, resumable_runs
from sr_nas.task import find_task, search_options

Record = Mapping[str, Any]
"""One epoch of a search."""
TITLES = {
    "gap_worst": "top-2 gap, worst choice",
    "gap_mean": "top-2 gap, mean of choices",
    "loss_task": "loss on alpha's images",
    "loss_train": "loss on weights' images",
    "latency_ms": "latency, HR 1280x720, ms",
}
SCORES = {
    "valid": "valid, %",
    "test": "test, %",
    "top1": "top-1, %",
    "top5": "top-5, %",
    "psnr": "PSNR, dB",
    "regret": "regret, dB",
    "ssim": "SSIM",
}
"""Scores of networks -> their titles."""


@dataclass(frozen=True)
class Trials:
    """A quantity of several runs over the same epochs: ``[runs, epochs]``, or ``[runs, epochs, candidates]``."""

    epochs: Sequence[int]
    values: Values

    @property
    def mean(self) -> Values:
        """Mean over the runs."""
        return np.mean(self.values, axis=0)

    @property
    def std(self) -> Values:
        """Sample standard deviation over the runs (divided by n - 1); NaN for a single run."""
        return np.std(self.values, axis=0, ddof=1) if len(self.values) > 1 else np.full_like(self.values[0], np.nan)

    def last(self, unit: float = 1.0, form: str = ".4g", std_form: str = ".2g") -> str:
        """Return ``mean ± std`` of the last epoch in a unit, the mean alone of one run, or a dash where it is unknown."""
        mean, std = self.mean[-1] / unit, self.std[-1] / unit
        if math.isnan(mean):
            return "-"
        return f"{mean:{form}}" if math.isnan(std) else f"{mean:{form}} ± {std:{std_form}}"


def labels_of(choices: Choices, of: Literal["operations", "inputs"] = "operations") -> list[str]:
    """Return the labels of the choices of operations, or of inputs."""
    return [label for label, choice in choices.items() if choice.of == of]


def top2_gaps(beta: Mapping[str, Sequence[float]], choices: Choices) -> dict[str, float]:
    """Return the largest beta minus the second largest, by label (SA-DARTS, table 1).

    Only choices of operations that keep one of several candidates have a gap.
    """
    labels = [label for label in labels_of(choices) if choices[label].picks == 1 and len(choices[label].candidates) > 1]
    ranked = {label: sorted(beta[label], reverse=True) for label in labels}
    return {label: values[0] - values[1] for label, values in ranked.items()}


def settled(history: Sequence[Record]) -> int:
    """Return the first epoch whose network, as alpha prefers it, is also that of all later epochs.

    The time until then is the first figure of search cost in tables 3 and 7 of SA-DARTS.
    """
    records = [record for record in history if "selection" not in record]  # which was not chosen by alpha alone
    last = records[-1]["genotype"]
    return max((record["epoch"] + 1 for record in records if record["genotype"] != last), default=records[0]["epoch"])


def quantities(history: Sequence[Record], choices: Choices, operation: str = "skip_connect") -> dict[str, Values]:
    """Return every scalar of a history, ``[epochs]``, NaN for epochs without it.

    These are ``alpha_mean``, ``alpha_median`` and ``alpha_std`` (of the population) over all logits of operations;
    ``gap_worst`` and ``gap_mean``, the smallest and the mean of :func:`top2_gaps`; ``share_<operation>`` among the operations of
    the network that would be derived, 0..1, where it is a candidate; that network's ``params``, ``macs_...`` and true accuracies
    (``cifar10_test``, ...); the mean losses (``loss_task`` of alpha's batches, ``loss_train`` of the weights') and ``seconds``.
    """
    epochs = [_scalars(record, choices, operation) for record in history]
    names = dict.fromkeys(name for scalars in epochs for name in scalars)
    return {name: np.array([scalars.get(name, np.nan) for scalars in epochs], dtype=np.float64) for name in names}


def _scalars(record: Record, choices: Choices, operation: str) -> dict[str, float]:
    labels = labels_of(choices)
    logits = np.concatenate([record["alpha"][label] for label in labels])
    scalars = {"alpha_mean": logits.mean(), "alpha_median": np.median(logits), "alpha_std": logits.std()}
    if gaps := list(top2_gaps(record["beta"], choices).values()):
        scalars |= {"gap_worst": min(gaps), "gap_mean": statistics.fmean(gaps)}
    if any(operation in choices[label].candidates for label in labels):
        inputs = labels_of(choices, "inputs")
        picks = [names for label, names in Genotype.from_json(record["genotype"]).picks if label not in inputs]
        # skip_connect~0 names what the operation reads as well.
        selected = [name.partition("~")[0] for names in picks for name in names]
        scalars[f"share_{operation}"] = selected.count(operation) / len(selected)
    scalars |= {name: value for name, value in record.items() if name.startswith(("params", "macs_"))}
    for dataset, scores in record.get("truth", {}).items():
        scalars |= {f"{dataset}_{part}": value for part, value in scores.items()}
    return scalars | {f"loss_{name}": value for name, value in record["loss"].items()} | {"seconds": record["seconds"]}


def axis_label(quantity: str) -> tuple[str, float]:
    """Return the title of a quantity of :func:`quantities`, and the divisor that brings it into the title's unit."""
    if quantity == "params":
        return "parameters, thousands", 1e3
    if quantity.startswith("macs_"):
        convention, _, size = quantity.removeprefix("macs_").rpartition("_")
        return (f"MACs, {convention.upper()} {size}, G", 1e9) if convention else (f"MACs, {size}, M", 1e6)
    name, _, part = quantity.rpartition("_")
    if part in SCORES:
        return f"true {name} {SCORES[part]}", 1.0
    return TITLES.get(quantity) or quantity.replace("share_", "share of ").replace("alpha_", "alpha, "), 1.0


@dataclass(frozen=True)
class SearchRun:
    """A search as its folder holds it; the data that it searched on need not be there."""

    folder: Path
    options: AnySearch
    choices: Choices
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """Searches that differ in their seeds alone, in the order of these, all of them up to the same epoch."""

    name: str
    runs: list[SearchRun]
    note: str = ""

    @property
    def choices(self) -> Choices:
        """Choices of the search space, the same for all runs."""
        return self.runs[0].choices

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [run.options.manual_seed for run in self.runs]

    @property
    def epochs(self) -> list[int]:
        """Epochs of the records."""
        return [record["epoch"] for record in self.runs[0].history]

    def quantities(self, operation: str = "skip_connect") -> dict[str, Trials]:
        """Return the quantities that all runs have, ``[runs, epochs]`` (see :func:`quantities`)."""
        runs = [quantities(run.history, self.choices, operation) for run in self.runs]
        names = [name for name in runs[0] if all(name in run for run in runs)]
        return {name: Trials(self.epochs, np.array([run[name] for run in runs])) for name in names}

    def beta(self, label: str) -> Trials:
        """Return beta of a choice, ``[runs, epochs, candidates]``."""
        return Trials(self.epochs, np.array([[record["beta"][label] for record in run.history] for run in self.runs]))


def read_run(folder: Path) -> SearchRun:
    """Read a search; a UserError if the folder is none of a search, or has no epoch yet."""
    if not (folder / OPTIONS).is_file():
        raise UserError(f"{folder} holds no {OPTIONS}: name the folder of a search, such as experiments/sa_nasbench201.")
    if "search" not in read_options(folder / OPTIONS):
        raise UserError(f"{folder} is the run of a training; the folder of a search is needed.")
    options = load_options(search_options, folder / OPTIONS, check_files=False)
    with torch.device("meta"):  # no weights are made
        choices = find_task(options.task).space(options).choices()
    history = read_history(folder, choices)
    if not history:
        raise UserError(f"the search in {folder} has no history yet.")
    return SearchRun(folder, options, choices, history)


def _runs_of(folder: Path) -> list[Path]:
    """Return the newest run of each trial in the folder of a sweep; any other folder stands for itself."""
    names = [file.stem for file in sorted((folder / OPTION_FILES).glob("*.yml"))]
    return [run for name in names for run in resumable_runs(folder, name)[:1]] or [folder]


def methods_of(folders: Sequence[Path], epoch: int | None = None) -> list[Method]:
    """Read searches and group them by what decides their result: name, seed, device, paths and logs do not.

    A method is named as its runs are, without ``_seed<number>``; where two would share a name, the first run's folder follows.

    Args:
        folders: of searches, or of sweeps, which stand for their searches.
        epoch: the last to look at; by default all that there are.

    Raises:
        UserError: as :func:`read_run`; a run has no such epoch; or two runs are the same search, which would count twice.
    """
    groups: dict[str, dict[int, SearchRun]] = {}
    for folder in {run.resolve(): run for named in folders for run in _runs_of(named)}.values():
        run = read_run(folder)
        if epoch is not None:
            if epoch not in range(len(run.history)):
                raise UserError(f"{folder} has the epochs 0 to {len(run.history) - 1}, and no epoch {epoch}.")
            run = replace(run, history=run.history[: epoch + 1])
        decides = decisive(run.options.model_dump(mode="json"), (*FREE, "name", "manual_seed"))
        other = groups.setdefault(json.dumps(decides, sort_keys=True), {}).setdefault(run.options.manual_seed, run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {folder} are the same search with the same seed, {run.options.manual_seed}: "
                "it would count twice. Name one of them."
            )
    firsts = [next(iter(group.values())) for group in groups.values()]
    names = [re.sub(r"_seed\d+$", "", first.options.name) for first in firsts]
    methods = []
    for name, first, group in zip(names, firsts, groups.values(), strict=True):
        unique = name if names.count(name) == 1 else f"{name} ({first.folder.name})"
        lengths = [len(run.history) for _, run in sorted(group.items())]
        runs = [replace(run, history=run.history[: min(lengths)]) for _, run in sorted(group.items())]
        note = (
            f"{unique}: its runs have come to epochs {listing(length - 1 for length in lengths)}; all are looked at up to epoch"
        )
        methods.append(Method(unique, runs, f"{note} {min(lengths) - 1}." if min(lengths) < max(lengths) else ""))
    return methods
