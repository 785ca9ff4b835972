"""Tables 5 and 8 of SA-DARTS: the searches of a grid of options."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from sr_nas.analysis.figures import heat_maps, line_figure
from sr_nas.analysis.history import Method, Trials, axis_label, read_run
from sr_nas.analysis.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.errors import UserError, nearest
from sr_nas.jobs.search import run_search
from sr_nas.options.load import load_options
from sr_nas.options.sections import AnySearch
from sr_nas.report.plots import Values, save
from sr_nas.task import search_options

DEFAULTS = ("cifar10_test", "share_skip_connect", "gap_worst"), ("macs_lr_1280x720", "gap_worst", "loss_task")
"""Quantities that are drawn: of NAS-Bench-201, and of other spaces."""

Axes = Mapping[str, Sequence[str]]
"""``section:...:key`` of an option -> its values, as the user wrote them in YAML."""


def main(args: Namespace) -> int:
    """Run ``analyze sweep``; return its exit code."""
    check_output(args.output)
    console, axes = Console(markup=False), read_axes(args.over)
    cells = cells_of(args.opt, args.force_yml, axes, args.seeds)
    report, code = run_sweep(cells, axes, args.show, args.output, console)
    if report is not None:
        report.print(console)
    return code


class Cell(NamedTuple):
    """A point of the grid: the value of every axis, as text, and checked options, one per seed."""

    values: tuple[str, ...]
    searches: list[AnySearch]


def read_axes(texts: Sequence[str]) -> Axes:
    """Read texts ``key=value,value,...``; the values are YAML.

    Raises:
        UserError: a text of another form, a key or a value that is given twice, or the seed or the name, which are not swept.
    """
    axes: dict[str, Sequence[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        flow = f"[{values}]"
        try:
            node = yaml.compose(flow, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise UserError(f"--over '{text}': the values are no YAML.") from error
        if not equals or not key or not isinstance(node, yaml.SequenceNode) or not node.value:
            raise UserError(f"--over '{text}': the form is key=value,value,..., for example search:regularizer:nu=0,0.25,1.")
        if key in ("name", "manual_seed"):
            raise UserError(f"--over {key}: every search of a grid has a name of its own; seeds are given by --seeds.")
        if key in axes:
            raise UserError(f"--over: an option is given twice: {key}.")
        # The marks cut out what the user wrote: 1e6 stays 1e6 in names and tables.
        axes[key] = [flow[item.start_mark.index : item.end_mark.index].strip() for item in node.value]
        if len(set(axes[key])) < len(axes[key]):
            raise UserError(f"--over '{text}': a value is given twice.")
    return axes


def short_keys(axes: Axes) -> list[str]:
    """Return the last word of every key, or as many of its last words as make all of them different."""
    words = [key.split(":") for key in axes]
    longest = max(map(len, words))
    names = (["_".join(word[-count:]) for word in words] for count in range(1, longest + 1))
    return next(keys for keys in names if len(set(keys)) == len(keys))


def cells_of(path: str, overrides: Sequence[str], axes: Axes, seeds: Sequence[int] | None) -> list[Cell]:
    """Check the options of every search of a grid, before the first is begun.

    A search is called ``<name>-nu0.25-mu1e6``, after :func:`short_keys`, and with seeds ``..._seed0``.

    Args:
        path: option file.
        overrides: ``section:key=value`` texts for all of them.
        axes: of the grid.
        seeds: of every cell; ``None`` for one search with the option file's own.

    Raises:
        UserError: an option that is wrong in one of them.
    """
    stem = load_options(search_options, path, overrides).name
    cells, names = [], set()
    for values in product(*axes.values()):
        parts = (
            f"-{key}{re.sub(r'[^A-Za-z0-9._+-]+', '_', value)[:40]}" for key, value in zip(short_keys(axes), values, strict=True)
        )
        name = stem + "".join(parts)
        names.add(name)
        point = [*overrides, *(f"{key}={value}" for key, value in zip(axes, values, strict=True))]
        runs = [[f"name={name}"]]
        if seeds is not None:
            runs = [[f"name={name}_seed{seed}", f"manual_seed={seed}"] for seed in seeds]
        cells.append(Cell(values, [load_options(search_options, path, [*point, *run]) for run in runs]))
    if len(names) < len(cells):
        raise UserError("two searches of the grid would have one name: values must differ in 40 letters, digits or . + -")
    return cells


def run_sweep(
    cells: Sequence[Cell], axes: Axes, show: Sequence[str], output: Path | None, console: Console
) -> tuple[Report | None, int]:
    """Search every cell of a grid, resuming those that were begun; write ``sweep.json``, ``sweep.csv`` and ``sweep.png``.

    Args:
        cells: from :func:`cells_of`.
        axes: of the grid.
        show: quantities to draw, e.g. ``["cifar10_test"]``; by default those of :data:`DEFAULTS` that are known.
        output: folder, by default a new one.
        console: for the searches.

    Returns:
        The report and 0; or ``None`` and the exit code of a search that was stopped by a signal.
    """
    check_output(output)
    methods: list[Method] = []
    for cell in cells:
        runs = []
        for options in cell.searches:
            folder, code = run_search(options, console, auto_resume=True)
            if code:
                return None, code
            runs.append(read_run(folder))
        methods.append(Method(", ".join(cell.values), runs))
        drawn = _drawn(show, methods)  # after the first cell already: a wrong name is refused before days of searching
    points = [dict(zip(axes, cell.values, strict=True)) for cell in cells]
    results = [method.quantities() for method in methods]
    written = open_output(output, "sweep")
    content, trials = [], []
    for point, method, result in zip(points, methods, results, strict=True):
        last = {name: values.values[:, -1].tolist() for name, values in result.items()}
        numbers = {
            name: {"mean": float(result[name].mean[-1]), "std": float(result[name].std[-1]), "trials": last[name]}
            for name in last
        }
        about = {"seeds": method.seeds, "runs": [str(run.folder) for run in method.runs]}
        content.append({**point, **about, "quantities": numbers})
        for place, seed in enumerate(method.seeds):
            trials.append({**point, "seed": seed} | {name: values[place] for name, values in last.items()})
    write_numbers(written / "sweep.json", content)
    write_csv(written / "sweep.csv", trials)
    save(sweep_figure({name: [result[name] for result in results] for name in drawn}, axes), written / "sweep.png")
    rows = []
    for cell, method, result in zip(cells, methods, results, strict=True):
        row = dict(zip(short_keys(axes), cell.values, strict=True)) | {"seeds": str(len(method.seeds))}
        rows.append(row | {axis_label(name)[0]: result[name].last(axis_label(name)[1]) for name in drawn})
    return Report(written, rows), 0


def _drawn(names: Sequence[str], methods: Sequence[Method]) -> list[str]:
    first, *others = [method.quantities() for method in methods]
    known = [name for name in first if all(name in other for other in others)]
    for name in names:
        if name not in known:
            raise UserError(f"--show: there is no '{name}'{nearest(name, known)} There are: {', '.join(known)}.")
    defaults = DEFAULTS[0] if DEFAULTS[0][0] in known else DEFAULTS[1]
    return list(names) or [name for name in defaults if name in known]


def sweep_figure(results: Mapping[str, Sequence[Trials]], axes: Axes) -> Figure:
    """Draw lines over one option, or heat maps over two; of more, the last is across and the others together down.

    Args:
        results: quantity -> trials of every cell, the last axis fastest; their last epoch is drawn.
        axes: of the grid.
    """
    *down, across = axes.values()
    shape = (-1, len(across)) if down else (-1,)
    panels: dict[str, tuple[Values, Values]] = {}
    for name, cells in results.items():
        title, unit = axis_label(name)
        mean = np.reshape([trials.mean[-1] / unit for trials in cells], shape)
        panels[title] = mean, np.reshape([trials.std[-1] / unit for trials in cells], shape)
    *keys, last = short_keys(axes)
    if not down:
        return line_figure(panels, across, last)
    return heat_maps(panels, [", ".join(values) for values in product(*down)], across, ", ".join(keys), last)
