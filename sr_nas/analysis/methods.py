"""Searches read from their run folders, and grouped into methods: runs that differ in their seeds alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_nas.analysis.history import Record, Trials, quantities
from sr_nas.errors import UserError, listing
from sr_nas.genotype import Choices
from sr_nas.options.load import FREE, decisive, load_options, read_options
from sr_nas.options.sections import AnySearch
from sr_nas.runs.run_dir import OPTIONS, read_history, resumable_runs
from sr_nas.task import find_task, search_options

SEEDS = "_seeds"
"""Ending of the folder that ``search --seeds`` leaves beside its runs: their output and summary."""


@dataclass(frozen=True)
class SearchRun:
    """A search as its folder holds it; the data that it searched on need not be there."""

    folder: Path
    options: AnySearch
    choices: Choices
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """Searches that differ in their seeds alone.

    Attributes:
        name: of the runs, without ``_seed<number>``; followed by the first run's folder where two methods would share it.
        runs: in the order of their seeds, all different.
    """

    name: str
    runs: list[SearchRun]

    @property
    def choices(self) -> Choices:
        """Choices of the search space, the same for all runs."""
        return self.runs[0].choices

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [run.options.manual_seed for run in self.runs]

    def histories(self) -> list[list[Record]]:
        """Return every run's records up to the last epoch that all of them have."""
        epochs = min(len(run.history) for run in self.runs)
        return [list(run.history[:epochs]) for run in self.runs]

    def last(self) -> list[Record]:
        """Return every run's record of the last epoch that all of them have."""
        return [history[-1] for history in self.histories()]

    def quantities(self, operation: str = "skip_connect") -> dict[str, Trials]:
        """Return the quantities that all runs have, ``[runs, epochs]`` (see :func:`sr_nas.analysis.history.quantities`)."""
        runs = [quantities(history, self.choices, operation) for history in self.histories()]
        return {name: self._trials([run[name] for run in runs]) for name in runs[0] if all(name in run for run in runs)}

    def beta(self, label: str) -> Trials:
        """Return beta of a choice, ``[runs, epochs, candidates]``."""
        return self._trials([[record["beta"][label] for record in history] for history in self.histories()])

    def _trials(self, values: Sequence[Any]) -> Trials:
        return Trials([record["epoch"] for record in self.histories()[0]], np.array(values, dtype=np.float64))

    def note(self) -> list[str]:
        """Return a remark where some runs have more epochs than others, which are not looked at."""
        epochs = [len(run.history) - 1 for run in self.runs]
        if min(epochs) == max(epochs):
            return []
        return [f"{self.name}: its runs have come to epochs {listing(epochs)}; all are looked at up to epoch {min(epochs)}."]


def read_run(folder: Path) -> SearchRun:
    """Read a search.

    Raises:
        UserError: it is no folder of a search, or has no epoch yet.
    """
    if not (folder / OPTIONS).is_file():
        raise UserError(f"{folder} holds no {OPTIONS}: name the folder of a search, such as experiments/sa_nasbench201.")
    if "search" not in read_options(folder / OPTIONS):
        raise UserError(f"{folder} is the run of a training; the folder of a search is needed.")
    options = load_options(search_options, folder / OPTIONS, check_files=False)
    history = read_history(folder)
    if not history:
        raise UserError(f"the search in {folder} has no history yet.")
    with torch.device("meta"):  # no weights are made
        choices = find_task(options.task).space(options).choices()
    return SearchRun(folder, options, choices, history)


def runs_of(folder: Path) -> list[Path]:
    """Return the runs of a folder ``<name>_seeds``, in the order of their seeds; any other folder stands for itself.

    Raises:
        UserError: a seed that was begun has no run.
    """
    seeds = sorted(int(match[1]) for log in folder.glob("seed*.txt") if (match := re.fullmatch(r"seed(\d+)", log.stem)))
    if not folder.name.endswith(SEEDS) or not seeds:
        return [folder]
    runs = []
    for seed in seeds:
        name = f"{folder.name.removesuffix(SEEDS)}_seed{seed}"
        newest = resumable_runs(folder.parent, name)[:1]
        if not newest:
            raise UserError(f"{folder} tells of a seed {seed}, and there is no run {folder.parent / name}.")
        runs += newest
    return runs


def methods_of(folders: Sequence[Path], epoch: int | None = None) -> list[Method]:
    """Read searches and group them by what decides their result: name, seed, device, paths and logs do not.

    Args:
        folders: of searches, or folders ``<name>_seeds``, which stand for their runs (see :func:`runs_of`).
        epoch: the last to look at; by default all that there are.

    Raises:
        UserError: as :func:`read_run`; a run has no such epoch; or two runs are the same search, which would count twice.
    """
    groups: dict[str, dict[int, SearchRun]] = {}
    for folder in {run.resolve(): run for named in folders for run in runs_of(named)}.values():
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
    names = [re.sub(r"_seed\d+$", "", next(iter(group.values())).options.name) for group in groups.values()]
    methods = []
    for name, group in zip(names, groups.values(), strict=True):
        first = next(iter(group.values())).folder.name
        runs = [run for _, run in sorted(group.items())]
        methods.append(Method(name if names.count(name) == 1 else f"{name} ({first})", runs))
    return methods
