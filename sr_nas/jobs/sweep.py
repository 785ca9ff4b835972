"""Tables 5 and 8 of SA-DARTS: the searches of a grid of options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from sr_nas.analysis.figures import heat_maps, line_figure, told
from sr_nas.analysis.history import check_output, mean_and_std, open_output, quantities, write_csv, write_numbers
from sr_nas.analysis.methods import read_run
from sr_nas.errors import UserError, nearest
from sr_nas.jobs.search import run_search
from sr_nas.options.load import load_options
from sr_nas.options.tasks import SEARCHES, AnySearch
from sr_nas.report.plots import save

_LONGEST = 40
_DEFAULTS = (
    ("cifar10_test", "share_skip_connect", "gap_worst"),
    ("macs_lr_1280x720", "gap_worst", "loss_task"),
)
"""Quantities to show, the first of which that are known."""


@dataclass(frozen=True)
class Axis:
    """An option and its values, as the user wrote them.

    Attributes:
        key: ``section:...:key``.
        values: texts.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One point of a grid.

    Attributes:
        values: of the axes, as text.
        searches: checked options, one per seed.
    """

    values: tuple[str, ...]
    searches: list[AnySearch]


def read_axis(text: str) -> Axis:
    """Read ``key=value,value,...``; the values are YAML.

    Raises:
        UserError: it is of another form, gives a value twice, or names the seed or the name, which are not swept.
    """
    key, equals, values = text.partition("=")
    try:
        node = yaml.compose(f"[{values}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--over '{text}': the values are no YAML.") from error
    if not equals or not key or not isinstance(node, yaml.SequenceNode) or not node.value:
        raise UserError(f"--over '{text}': the form is key=value,value,..., for example search:regularizer:nu=0,0.25,1.")
    found = tuple(f"[{values}]"[item.start_mark.index : item.end_mark.index].strip() for item in node.value)
    if len(set(found)) < len(found):
        raise UserError(f"--over '{text}': a value is given twice.")
    if key in ("name", "manual_seed"):
        raise UserError(f"--over {key}: every search of a grid has a name of its own; seeds are given by --seeds.")
    return Axis(key, found)


def cells_of(path: str, overrides: Sequence[str], axes: Sequence[Axis], seeds: Sequence[int] | None) -> list[Cell]:
    """Check the options of every search of a grid, before the first is begun.

    A search is called ``<name>-nu0.25-mu1e6``, after the last word of each key, and with seeds ``..._seed0``.

    Args:
        path: option file.
        overrides: ``section:key=value`` texts for all of them.
        axes: of the grid.
        seeds: of every cell; ``None`` for one search with the option file's own.

    Raises:
        UserError: an option that is wrong in one of them.
    """
    base = load_options(SEARCHES, path, overrides)
    shorts = short_keys(axes)
    found, names = [], set()
    for values in product(*(axis.values for axis in axes)):
        name = base.name + "".join(
            f"-{short}{_as_name(value, axis.values.index(value))}"
            for short, axis, value in zip(shorts, axes, values, strict=True)
        )
        names.add(name)
        own = [*overrides, *(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))]
        namings = [[f"name={name}"]]
        if seeds is not None:
            namings = [[f"name={name}_seed{seed}", f"manual_seed={seed}"] for seed in seeds]
        searches = [load_options(SEARCHES, path, [*own, *naming]) for naming in namings]
        found.append(Cell(values, searches))
    if len(names) < len(found):
        raise UserError("two searches of the grid would have one name: values must differ in letters, digits or . + -")
    return found


def run_sweep(
    path: str,
    overrides: Sequence[str],
    axes: Sequence[Axis],
    seeds: Sequence[int] | None,
    show: Sequence[str],
    output: Path | None,
    console: Console,
) -> tuple[Path | None, list[dict[str, Any]], int]:
    """Search every cell of a grid, or go on where it was stopped, and write what came of it.

    Args:
        path: option file.
        overrides: ``section:key=value`` texts for all searches.
        axes: of the grid.
        seeds: of every cell.
        show: quantities to draw, e.g. ``["cifar10_test"]``; by default those that are known of a few.
        output: folder, by default a new one.
        console: for the searches.

    Returns:
        The folder, a row per cell, and 0; or no folder and the exit code of a search that was stopped.
    """
    check_output(output)
    cells = cells_of(path, overrides, axes, seeds)
    rows: list[dict[str, Any]] = []
    shown: list[str] = []
    for cell in cells:
        numbers, folders = [], []
        for options in cell.searches:
            folder, code = run_search(options, console, auto_resume=True)
            if code:
                return None, [], code
            run = read_run(folder)
            numbers.append(quantities(run.history, run.choices))
            folders.append(str(folder))
        row: dict[str, Any] = {axis.key: value for axis, value in zip(axes, cell.values, strict=True)}
        row |= {"seeds": [options.manual_seed for options in cell.searches], "runs": folders, "quantities": _last(numbers)}
        rows.append(row)
        shown = _shown(show, rows)  # of the first cell already: a wrong name is not told after days
    written = open_output(output, "sweep")
    _write(written, rows, axes, shown)
    return written, [row | {"shown": shown} for row in rows], 0


def _last(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in runs[0]:
        if all(name in run for run in runs):
            last = [np.asarray(run[name][-1]) for run in runs]
            mean, std = mean_and_std(last)
            found[name] = {"mean": float(mean), "std": float(std), "trials": [float(value) for value in last]}
    return found


def _shown(wanted: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    known = [name for name in rows[0]["quantities"] if all(name in row["quantities"] for row in rows)]
    for name in wanted:
        if name not in known:
            raise UserError(f"--show: there is no '{name}'{nearest(name, known)} There are: {', '.join(known)}.")
    first = next((names for names in _DEFAULTS if names[0] in known), _DEFAULTS[-1])
    return list(wanted) or [name for name in first if name in known]


def _write(folder: Path, rows: Sequence[Mapping[str, Any]], axes: Sequence[Axis], shown: Sequence[str]) -> None:
    write_numbers(folder / "sweep.json", rows)
    keys = [axis.key for axis in axes]
    names = list(rows[0]["quantities"])
    lines = [
        [
            *(row[key] for key in keys),
            seed,
            *(row["quantities"][name]["trials"][trial] if name in row["quantities"] else float("nan") for name in names),
        ]
        for row in rows
        for trial, seed in enumerate(row["seeds"])
    ]
    write_csv(folder / "sweep.csv", [*keys, "seed", *names], lines)
    save(sweep_figure(rows, axes, shown), folder / "sweep.png")


def sweep_figure(rows: Sequence[Mapping[str, Any]], axes: Sequence[Axis], shown: Sequence[str]) -> Figure:
    """Draw lines over one option, or heat maps over two; of more, the last is across and the others together down."""
    *down, across = axes
    shape = (-1, len(across.values)) if down else (-1,)
    panels = {}
    for name in shown:
        title, unit = told(name)
        both = [[row["quantities"][name][part] / unit for row in rows] for part in ("mean", "std")]
        panels[title] = (np.reshape(both[0], shape), np.reshape(both[1], shape))
    shorts = short_keys(axes)
    if not down:
        return line_figure(panels, across.values, across.key)
    labels = [", ".join(values) for values in product(*(axis.values for axis in down))]
    return heat_maps(panels, labels, across.values, ", ".join(shorts[:-1]), shorts[-1])


def short_keys(axes: Sequence[Axis]) -> list[str]:
    """Return the last word of every axis's key, or as many of its last as tell it from the others.

    Raises:
        UserError: two axes are of one option.
    """
    words = [axis.key.split(":") for axis in axes]
    for count in range(1, max(map(len, words)) + 1):
        found = ["_".join(word[-count:]) for word in words]
        if len(set(found)) == len(found):
            return found
    raise UserError(f"--over: an option is given twice: {', '.join(axis.key for axis in axes)}.")


def _as_name(value: str, place: int) -> str:
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", value)
    return name if len(name) <= _LONGEST else f"value{place + 1}"
