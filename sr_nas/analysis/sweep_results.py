"""What a sweep writes: the table of its settings, comparisons with chance, and figures."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from sr_nas.analysis.contenders import HANDMADE, RANDOM, SEARCHED, compare, verdict
from sr_nas.analysis.history import axis_label
from sr_nas.analysis.sweep_settings import (
    COSTS,
    NETWORK,
    Axes,
    Done,
    add_networks,
    more_is_better,
    pick,
    short_keys,
    statistics,
    trials_of,
)
from sr_nas.errors import UserError, listing, nearest
from sr_nas.report.page import REPORT, Section, again, write_page
from sr_nas.report.plots import COLOURS, FAINT, Values, new_figure, save, style
from sr_nas.report.tables import Report, Row, Table, write_csv, write_numbers
from sr_nas.runs.files import write_text
from sr_nas.runs.run_dir import provenance

SUMMARISED = r".+_(valid|test|psnr|ssim|top1|top5|regret)|params|macs_.+|latency_ms|gap_worst|share_.+|loss_task"
"""Pattern of the quantities of a table of seeds alone."""
DEFAULTS = r".+_(test|psnr|top1)", r"gap_worst|loss_task"
"""Patterns of the quantities of a grid that are drawn, the first that some quantities match."""
PAIRED = "differences are paired by seed, in brackets the 95 % interval of their mean"


def write_results(
    folder: Path,
    results: Sequence[Done],
    axes: Axes,
    show: Sequence[str],
    by: str | None,
    about: Mapping[str, Any],
    console: Console,
) -> None:
    """Write ``sweep.json``, ``.csv``, ``.md``, ``.png``, ``front.png`` and the page of a sweep into its folder; print the table.

    Args:
        results: of all settings.
        axes: of the grid.
        show: quantities to draw, by default those of :data:`DEFAULTS`.
        by: quantity of which the table has all statistics, the first of ``show`` by default.
        about: what ``sweep.json`` says on the sweep itself.
    """
    results = [done for done in results if done.runs]
    if not results:
        return
    genotypes = add_networks(results)
    known = [name for name in results[0].numbers[0] if all(name in numbers for done in results for numbers in done.numbers)]
    for name in show:
        if name not in known:
            raise UserError(f"--show: not all trials have '{name}'{nearest(name, known)} They have: {', '.join(known)}.")
    matches = ([name for name in known if re.fullmatch(pattern, name)] for pattern in DEFAULTS)
    drawn = list(show) or next((names for names in matches if names), known[:1])
    main = pick(by, dict.fromkeys(known, 0.0)) if by else drawn[0]
    trials, settings = _numbers(results, axes, known, genotypes)
    names = [name for name in dict.fromkeys([main, *drawn, *known]) if name in (main, *drawn) or re.fullmatch(COSTS, name)]
    rows, notes = table(results, axes, names, genotypes) if len(results) > 1 else seeds_table(results[0], known, genotypes)
    notes = [*about.get("notes", ()), *notes]
    notes.append(f"{trials_of(len(trials))}, {sum(done.whole for done in results)} of {len(results)} settings to the end")
    if "share_of_all" in about:
        notes.append(f"{about['share_of_all']:.0%} of the steps that all of them would take")
    compared = comparisons(results, axes)
    verdicts = [verdict(results[0].title(name), comparison) for name, comparison in compared.items()]
    if compared:
        of = next(iter(compared.values()))["of"]
        notes += [f"a random network is ranked first of {of} with probability {1 / of:.2f}; {PAIRED}"]
    write_numbers(folder / "sweep.json", {**about, "comparison": compared, "settings": settings, "trials": trials})
    write_csv(folder / "sweep.csv", trials)
    texts = [Table(some).markdown() for some in (rows, verdicts) if some]
    write_text(folder / "sweep.md", "\n\n".join([*texts, "\n".join(f"- {note}" for note in notes)]) + "\n")
    for name in ("sweep.png", "front.png"):  # of other settings, perhaps
        (folder / name).unlink(missing_ok=True)
    figures: dict[str, Figure] = {}
    if axes and len(results) == np.prod([len(values) for values in axes.values()]) and all(done.whole for done in results):
        figures["sweep"] = sweep_figure(results, drawn, axes)
    costs = [name for name in known if re.fullmatch(r"macs_hr.+|macs_\d.+|latency_ms", name)]
    if costs := [name for name in costs if len({done.of(name).mean() for done in results}) > 1]:
        figures["front"] = front_figure(results, axes, costs, main)
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png")
    write_report(folder, results, rows, verdicts, notes, list(figures.values()))
    if verdicts:
        Table(verdicts).print(console)
    Report(folder, rows, notes).print(console)


def write_report(
    folder: Path,
    results: Sequence[Done],
    rows: Sequence[Row],
    verdicts: Sequence[Row],
    notes: Sequence[str],
    figures: list[Figure],
) -> None:
    """Write the page of a sweep, with a link to that of each trial."""
    runs = [cast(tuple[Path, Any], trial.record(until))[0] for done in results for trial, until in done.runs]
    links = {run.name: f"{quote(run.name)}/{REPORT}" for run in runs if (run / REPORT).is_file()}
    start = provenance(0, torch.device("cpu"))
    asked = f"Asked for: {trials_of(len(runs))} of {len(results)} setting{'s' * (len(results) > 1)}."
    sections = [
        Section("Against chance", rows=verdicts),
        Section("Settings", rows=rows),
        Section("Figures", figures=figures),
        Section("Trials", links=links),
        *again([sys.argv], [{key: start[key] for key in ("started", "sr_nas", "git", "python", "platform", "packages")}]),
    ]
    write_page(folder / REPORT, folder.name, [asked, *(f"{note}." for note in notes)], sections)


def _numbers(
    results: Sequence[Done], axes: Axes, known: Sequence[str], genotypes: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all numbers of every trial and of every setting."""
    trials, settings = [], []
    for done in results:
        point = dict(zip(axes, done.values, strict=True))
        figures = {name: statistics(done.of(name), name) for name in known}
        settings.append(point | {"runs": [trial.name for trial, _ in done.runs], "whole": done.whole, "quantities": figures})
        for (trial, until), numbers in zip(done.runs, done.numbers, strict=True):
            head = {"trial": trial.name, **point, "seed": trial.options.manual_seed, "until": until}
            trials.append({**head, "genotype": genotypes.get(trial.name, ""), **numbers})
    return trials, settings


def _text(values: Values, name: str, keys: Sequence[str] = ("mean", "sd")) -> list[str]:
    """Return statistics of a quantity as texts in its unit; an unknown one is a dash, an unknown deviation is left out."""
    unit, numbers = axis_label(name)[1], statistics(values, name)
    texts = {key: "-" if np.isnan(number) else _digits(number / unit, 5) for key, number in numbers.items()}
    if numbers["sd"] > 0:
        texts["mean"] += f" ± {_digits(numbers['sd'] / unit, 2)}"
    return [texts[key] for key in keys if key != "sd"]


def _digits(number: float, digits: int) -> str:
    return f"{number:#.{digits}g}".rstrip(".")


def seeds_table(done: Done, known: Sequence[str], genotypes: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Return a row for each quantity of one setting, over its seeds; and the genotypes as remarks."""
    keys = ("mean", "median", "best", "worst")
    names = [name for name in known if re.fullmatch(SUMMARISED, name)]
    rows: list[Row] = [
        {"at the end": done.title(name), **dict(zip(keys, _text(done.of(name), name, keys), strict=True))} for name in names
    ]
    owners = {one: [name for name, other in genotypes.items() if other == one] for one in genotypes.values()}
    return rows, [f"{listing(names, 3)}: {genotype}" for genotype, names in owners.items()]


def table(results: Sequence[Done], axes: Axes, names: Sequence[str], genotypes: Mapping[str, str]) -> tuple[list[Row], list[str]]:
    """Return a row for each setting: mean ± standard deviation of quantities, and all statistics of the first.

    What all networks share is no column but a remark.
    """
    rows: list[Row] = []
    several, partly = max(len(done.runs) for done in results) > 1, not all(done.whole for done in results)
    for done in results:
        row = dict(zip(short_keys(axes), done.values, strict=True))
        row |= {"seeds": str(len(done.runs))} if several else {}
        row |= {"until": str(done.runs[0][1])} if partly else {}
        for name in names:
            row[done.title(name)] = _text(done.of(name), name)[0]
            if several and name == names[0]:
                keys = ("median", "best", "worst")
                row |= dict(zip(keys, _text(done.of(name), name, keys), strict=True))
        if genotypes:
            row["genotype"] = "\n".join(dict.fromkeys(genotypes.get(trial.name, "") for trial, _ in done.runs))
        rows.append(row)
    common = {results[0].title(name) for name in names[1:] if re.fullmatch(COSTS, name)} | {"genotype"}
    shared = {key: text for key, text in rows[0].items() if key in common and all(row[key] == text for row in rows)}
    rows = [{key: text for key, text in row.items() if key not in shared} for row in rows]
    return rows, [f"of all: {'; '.join(f'{key}: {text}' for key, text in shared.items())}"] if shared else []


def comparisons(results: Sequence[Done], axes: Axes) -> dict[str, dict[str, Any]]:
    """Return for each score of trainings how a searched network compares with random ones; none where not all are trained.

    See :func:`sr_nas.analysis.contenders.compare`. Pairs are of the seeds that all networks have.
    """
    names = [done.values[0] for done in results] if list(axes) == [NETWORK] else []
    if SEARCHED not in names or f"{RANDOM}0" not in names or not all(done.whole for done in results):
        return {}
    seeds = [{trial.options.manual_seed: place for place, (trial, _) in enumerate(done.runs)} for done in results]
    common = [seed for seed in seeds[0] if all(seed in others for others in seeds)]
    scored = [name for name in results[0].numbers[0] if re.fullmatch(r".+_(psnr|top1)", name)] if common else []
    return {
        name: compare({
            title: done.of(name)[[places[seed] for seed in common]]
            for title, done, places in zip(names, results, seeds, strict=True)
        })
        for name in scored
    }  # fmt: skip


def front_figure(results: Sequence[Done], axes: Axes, costs: Sequence[str], main: str) -> Figure:
    """Draw a quantity against each cost: the mean of every setting, and a line through those that no other beats in both.

    Networks drawn at random have a front of their own, and a hand-made one stands alone. Settings that a halving has ended before
    are hollow, and on no front.
    """
    figure = new_figure(4.6 * len(costs) + 0.4, 3.8)
    sign = 1 if more_is_better(main) else -1
    title, main_unit = results[0].title(main), axis_label(main)[1]
    looks = {"settings": (COLOURS[0], "o"), "searched": (COLOURS[0], "D"), RANDOM: (FAINT, "o"), HANDMADE: (COLOURS[1], "s")}

    def kind(done: Done) -> str:
        words = done.values[0].rstrip("0123456789") if NETWORK in axes else ""
        return words if words in (RANDOM, HANDMADE) else "searched" if words else "settings"

    for panel, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
        label, unit = axis_label(cost)
        for name, (colour, marker) in looks.items():
            if not (some := [done for done in results if kind(done) == name]):
                continue
            x, y = ([float(np.mean(done.of(key))) / scale for done in some] for key, scale in ((cost, unit), (main, main_unit)))
            bars = [float(np.std(done.of(main), ddof=1)) / main_unit if len(done.runs) > 1 else 0.0 for done in some]
            look: dict[str, Any] = {"linestyle": "none", "capsize": 3, "markersize": 4}
            panel.plot([], [], linestyle="none", marker=marker, color=colour, label=name)
            whole = [place for place, done in enumerate(some) if done.whole]
            ended = [place for place, done in enumerate(some) if not done.whole]
            for places, filling in ((ended, "white"), (whole, colour)):
                points = ([values[place] for place in places] for values in (x, y, bars))
                panel.errorbar(*points, color=colour, marker=marker, markerfacecolor=filling, **look)
            best = [place for place in whole if not any(_beats(other, place, x, y, sign) for other in whole)]
            best.sort(key=x.__getitem__)
            panel.plot([x[place] for place in best], [y[place] for place in best], color=colour, linewidth=1.2)
        style(panel, title, label)
        if len(panel.get_legend_handles_labels()[1]) > 1:
            panel.legend(frameon=False, fontsize=8)
    return figure


def _beats(one: int, other: int, costs: Sequence[float], scores: Sequence[float], sign: int) -> bool:
    """Return whether a point is as cheap and as good as another, and in one of both better; ``sign`` -1 if less is better."""
    cheaper, better = costs[other] - costs[one], sign * (scores[one] - scores[other])
    return min(cheaper, better) >= 0 and max(cheaper, better) > 0


def sweep_figure(results: Sequence[Done], names: Sequence[str], axes: Axes) -> Figure:
    """Draw lines over one option, or heat maps over two; of more, the last is across and the others together down.

    Args:
        results: of every setting, the last axis fastest.
        names: quantities to draw.
        axes: of the grid.
    """
    *down, across = axes.values()
    *keys, last = short_keys(axes)
    # Long values, such as genotypes, are broken after their commas.
    ticks, labels = (
        [fill(",".join(words).replace(",", ", "), 18, break_long_words=False) for words in product(*values)]
        for values in ([across], down)
    )
    deep, broad = (max(len(text.split("\n")) for text in texts) for texts in (ticks, labels))
    longest, long = (max(len(line) for text in texts for line in text.split("\n")) for texts in (ticks, labels))
    width = max(max(0.085 * longest, 1.05 if down else 0.6) * len(across) + 1.2 + 0.07 * long, 3.2)
    height = (max(0.6, 0.18 * broad + 0.1) * len(labels) + 1.4 if down else 3.2) + 0.15 * deep
    figure = new_figure(width * len(names) + 0.3, height)
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        title, unit = results[0].title(name), axis_label(name)[1]
        numbers = [statistics(done.of(name) / unit, name) for done in results]
        mean, std = (np.reshape([one[key] for one in numbers], (len(labels), len(across))) for key in ("mean", "sd"))
        style(panel, title, last, ", ".join(keys), boxed=bool(down))
        panel.set_xticks(range(len(across)), ticks)
        if down:
            _heat_map(panel, mean, std)
            panel.set_yticks(range(len(labels)), labels)
        else:
            panel.errorbar(range(len(across)), mean[0], np.nan_to_num(std[0]), color=COLOURS[0], marker="o", capsize=4)
            panel.set_xlim(-0.4, len(across) - 0.6)
    return figure


def _heat_map(panel: Any, mean: Values, std: Values) -> None:
    """Draw values as colours, ``[rows, columns]``, with the numbers in the cells; NaN where there is none."""
    image = panel.imshow(mean, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(mean):
        text = "-" if np.isnan(value) else _digits(value, 4)
        text += "" if np.isnan(std[row, column]) else f"\n± {_digits(std[row, column], 2)}"
        # The bright end of the colours is too bright for white letters.
        colour = "#111111" if float(np.nan_to_num(image.norm(value))) > 0.6 else "#fdfdfd"
        panel.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    panel.tick_params(length=0)
