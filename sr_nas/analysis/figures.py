"""Several methods beside each other: their curves over the epochs, with what seeds make of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sr_nas.report.plots import COLOURS, FAINT, INK, line_styles, new_figure, style, style_epochs

Values = npt.NDArray[np.float64]
LETTER = 0.085
"""About the width in inches of a letter of a legend."""


@dataclass(frozen=True)
class Curve:
    """Mean over seeds by epoch, ``[epochs]``, or ``[epochs, candidates]`` in :func:`beta_panels`, and its deviation."""

    epochs: Sequence[int]
    mean: Values
    std: Values


def method_curves(
    panels: Mapping[str, Mapping[str, Curve]], columns: int, note: str, most: Mapping[str, float] | None = None
) -> Figure:
    """Return a figure with one panel per quantity and one line per method in each, in a band of one standard deviation.

    Args:
        panels: title -> method -> curve.
        columns: panels beside each other.
        note: what the bands are, written at the top of the legend.
        most: title -> the largest value that there can be, the least being 0; bands end there.
    """
    methods = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    styles = line_styles(methods)
    rows = math.ceil(len(panels) / columns)
    width = LETTER * max(map(len, [*methods, *note.split("\n")])) + 0.8
    figure = new_figure(3.2 * columns + width, max(2.4 * rows + 0.5, 0.21 * len(methods) + 1.4))
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for position, (axes, (title, curves)) in enumerate(zip(grid, panels.items(), strict=False)):
        for method, curve in curves.items():
            _line(axes, curve.epochs, curve.mean, curve.std, styles[method], 1.8, (most or {}).get(title))
        style_epochs(axes, max((curve.epochs for curve in curves.values()), key=len), title)
        if position + columns >= len(panels):
            axes.set_xlabel("epoch", fontsize=10, color=INK)
            axes.tick_params(labelbottom=True)
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = [Line2D([], [], label=name, linewidth=2.0, **style) for name, style in styles.items()]
    _legend(figure, handles, note)
    return figure


def beta_panels(panels: Mapping[str, tuple[Sequence[str], Curve]], note: str) -> Figure:
    """Return a figure with one panel per method, or per choice, and one line per candidate: figures 2 and 4 of SA-DARTS.

    The candidate of the largest mean beta in the last epoch is bold and named; the dotted line is an even share.

    Args:
        panels: title -> names of the candidates, and their curves.
        note: what the bands are.
    """
    names = list(dict.fromkeys(name for candidates, _ in panels.values() for name in candidates))
    styles = line_styles(names)
    columns = len(panels) if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    width = LETTER * max(map(len, [*names, *note.split("\n")])) + 0.8
    figure = new_figure(3.3 * columns + width, max(2.4 * rows + 0.5, 0.21 * len(names) + 1.4))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for position, (axes, (title, (candidates, curve))) in enumerate(zip(grid, panels.items(), strict=False)):
        first = int(np.argmax(curve.mean[-1]))
        for index, name in enumerate(candidates):
            _line(
                axes, curve.epochs, curve.mean[:, index], curve.std[:, index], styles[name], 3.0 if index == first else 1.3, 1.0
            )
        axes.axhline(1 / len(candidates), color=FAINT, linewidth=1.0, linestyle=":", zorder=1)
        style_epochs(axes, curve.epochs, title)
        axes.set_title(candidates[first] if len(title) + len(candidates[first]) < 34 else "", loc="right", fontsize=9, color=INK)
        if position + columns >= len(panels):
            axes.set_xlabel("epoch", fontsize=10, color=INK)
            axes.tick_params(labelbottom=True)
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = [Line2D([], [], label=name, linewidth=2.0, **style) for name, style in styles.items()]
    handles.append(Line2D([], [], label="1/N, uniform", color=FAINT, linewidth=1.0, linestyle=":"))
    _legend(figure, handles, note)
    return figure


def _line(
    axes: Axes, epochs: Sequence[int], mean: Values, std: Values, style: dict[str, Any], width: float, most: float | None
) -> None:
    marker = "o" if np.isfinite(mean).sum() == 1 else None
    axes.plot(epochs, mean, **style, linewidth=width, marker=marker, markersize=5)
    if np.isfinite(std).any():
        low, high = mean - std, mean + std
        if most is not None:
            low, high = np.clip(low, 0, most), np.clip(high, 0, most)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _legend(figure: Figure, handles: list[Line2D], note: str) -> None:
    legend = figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=9, handlelength=2.8, title=note, alignment="left"
    )
    legend.get_title().set(fontsize=8, color=INK)


def told(quantity: str) -> tuple[str, float]:
    """Return a title for a quantity of :mod:`sr_nas.analysis.history`, and what to divide it by for the title's unit."""
    titles = {
        "alpha_mean": "mean of alpha",
        "alpha_median": "median of alpha",
        "alpha_std": "standard deviation of alpha",
        "gap_worst": "top-2 gap, worst choice",
        "gap_mean": "top-2 gap, mean of choices",
        "loss_task": "loss on alpha's images",
        "loss_train": "loss on weights' images",
    }
    if quantity == "params":
        return "parameters, thousands", 1e3
    if quantity.startswith("macs_"):
        what, _, size = quantity.removeprefix("macs_").rpartition("_")
        unit, factor = ("G", 1e9) if what else ("M", 1e6)
        return f"MACs, {what.upper() + ' ' if what else ''}{size}, {unit}", factor
    if quantity.startswith("share_"):
        return f"share of {quantity.removeprefix('share_')}", 1.0
    data, _, part = quantity.rpartition("_")
    if part in ("valid", "test"):
        return f"true {data} {part}, %", 1.0
    return titles.get(quantity, quantity.replace("_", " ")), 1.0


def largest(quantity: str) -> float | None:
    """Return the largest value that a quantity can have, its least being 0, or ``None`` where it has no such bounds."""
    if quantity.startswith(("gap_", "share_")):
        return 1.0
    return 100.0 if quantity.endswith(("_valid", "_test")) else None


# MERGED sr_nas.analysis.figures: Figures of single analyses: gaps of methods, a landscape, a grid of searches,
# replaced operations.


analyses_Values = npt.NDArray[np.float64]
LEVELS = 15
# Beyond so much of a colour map's range it is too bright for white letters.
BRIGHT = 0.6


def gaps_figure(gaps: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> Figure:
    """Return a figure of every trial's top-2 gap by method, on a logarithmic scale, with the mean as a bar.

    Args:
        gaps: method -> a gap per trial; those of 0, which no logarithm has, are drawn at the bottom.
        labels: method -> what is compared, e.g. its edge.
    """
    figure = new_figure(max(4.5, 1.5 * len(gaps) + 1.2), 3.8)
    axes = figure.subplots()
    positive = [gap for trials in gaps.values() for gap in trials if gap > 0]
    floor = 0.5 * min(positive, default=1e-3)
    for place, trials in enumerate(gaps.values()):
        colour = COLOURS[place % len(COLOURS)]
        offsets = np.linspace(-0.15, 0.15, len(trials)) if len(trials) > 1 else [0.0]
        axes.scatter(place + np.asarray(offsets), np.maximum(trials, floor), s=28, color=colour, alpha=0.8, zorder=3)
        mean = max(float(np.mean(trials)), floor)
        axes.plot([place - 0.28, place + 0.28], [mean, mean], color=INK, linewidth=2.0, zorder=4)
        axes.annotate(f"{np.mean(trials):.2g}", (place + 0.3, mean), va="center", fontsize=9, fontweight="bold", color=INK)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(gaps) - 0.2)
    axes.set_xticks(range(len(gaps)), [f"{_broken(method)}\n{labels[method]}" for method in gaps])
    style(axes)
    axes.set_title("top-2 gap of beta; a point per seed, the bar is their mean", loc="left", fontsize=10, color=INK)
    return figure


def landscape_figure(surfaces: Mapping[str, Mapping[str, analyses_Values]], steps: Sequence[float], unit: str) -> Figure:
    """Return a figure with a row per search and a column per quantity, each column on one scale of colours.

    Args:
        surfaces: search -> quantity -> values, ``[steps of the second direction, steps of the first]``.
        steps: along both directions.
        unit: what a step of 1 is.
    """
    names = list(next(iter(surfaces.values())))
    figure = new_figure(4.3 * len(names) + 0.3, 3.5 * len(surfaces) + 0.3)
    grid = figure.subplots(len(surfaces), len(names), sharex=True, sharey=True, squeeze=False)
    for column, name in enumerate(names):
        values = np.concatenate([rows[name].ravel() for rows in surfaces.values()])
        levels = MaxNLocator(LEVELS).tick_values(float(values.min()), float(values.max()))
        for axes, (title, rows) in zip(grid[:, column], surfaces.items(), strict=True):
            drawn = axes.contourf(steps, steps, rows[name], levels=levels, cmap="viridis")
            axes.contour(steps, steps, rows[name], levels=levels, colors="white", linewidths=0.4, alpha=0.6)
            axes.plot(0, 0, marker="+", markersize=11, markeredgewidth=2, color="white")
            axes.set_title(f"{title}: {name}", loc="left", fontsize=10, fontweight="bold", color=INK)
            axes.tick_params(labelsize=9, colors=INK)
            axes.set_aspect("equal")
        bar = figure.colorbar(drawn, ax=grid[:, column].tolist(), shrink=0.9 / len(surfaces) ** 0.3, format="%.4g")
        bar.ax.tick_params(labelsize=9, colors=INK)
        grid[-1, column].set_xlabel(f"first direction, {unit}", fontsize=9, color=INK)
    for axes in grid[:, 0]:
        axes.set_ylabel("second direction", fontsize=9, color=INK)
    return figure


def line_figure(panels: Mapping[str, tuple[analyses_Values, analyses_Values]], values: Sequence[str], key: str) -> Figure:
    """Return a figure with one panel per quantity over the values of one option, which are written and evenly spaced.

    Args:
        panels: title -> mean and standard deviation by value.
        values: of the option, as text.
        key: its name.
    """
    each = max(3.2, 0.6 * len(values) + 1.2)
    figure = new_figure(each * len(panels) + 0.3, 3.3)
    for axes, (title, (mean, std)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.errorbar(range(len(values)), mean, np.nan_to_num(std), color=COLOURS[0], marker="o", linewidth=1.6, capsize=4)
        axes.set_xticks(range(len(values)), values, **_turned(values))
        axes.set_xlim(-0.4, len(values) - 0.6)
        style(axes)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel(key, fontsize=9, color=INK)
    return figure


def heat_maps(
    panels: Mapping[str, tuple[analyses_Values, analyses_Values]],
    rows: Sequence[str],
    columns: Sequence[str],
    row_key: str,
    column_key: str,
) -> Figure:
    """Return a figure with one heat map per quantity over two options, its means and deviations written into the cells.

    Args:
        panels: title -> mean and standard deviation, ``[rows, columns]``; NaN where there is none.
        rows: values of one option, as text.
        columns: of the other.
        row_key: name of the one.
        column_key: name of the other.
    """
    width = 1.05 * len(columns) + 0.07 * max(map(len, rows)) + 1.9
    width = max(width, 3.6)
    figure = new_figure(width * len(panels) + 0.3, 0.6 * len(rows) + 1.5 + 0.05 * max(map(len, columns)))
    for axes, (title, (mean, std)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        image = axes.imshow(mean, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(mean):
            text = "-" if np.isnan(value) else f"{value:.4g}"
            text += "" if np.isnan(std[row, column]) else f"\n± {std[row, column]:.2g}"
            share = float(np.nan_to_num(image.norm(value)))
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=INK if share > BRIGHT else "white")
        axes.set_xticks(range(len(columns)), columns, **_turned(columns))
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(labelsize=9, colors=INK, length=0)
        axes.set_xlabel(column_key, fontsize=9, color=INK)
        axes.set_ylabel(row_key, fontsize=9, color=INK)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    return figure


def replacement_figure(
    edges: Mapping[str, Sequence[tuple[str, float]]], accuracies: Mapping[str, Mapping[str, list[float]]]
) -> Figure:
    """Return a figure of true accuracies over an edge's operations in decreasing order of beta: a row per edge.

    Args:
        edges: label -> (operation, beta), the largest beta first.
        accuracies: label -> data set -> accuracy in percent, in the same order.
    """
    sets = list(next(iter(accuracies.values())))
    figure = new_figure(4.0 * len(sets) + 0.3, 3.1 * len(edges) + 0.3)
    grid = figure.subplots(len(edges), len(sets), sharey="col", squeeze=False)
    for row, (label, order) in zip(grid, edges.items(), strict=True):
        for column, (axes, name) in enumerate(zip(row, sets, strict=True)):
            values = accuracies[label][name]
            axes.plot(range(len(order)), values, color=FAINT, linewidth=1.2, zorder=2)
            axes.scatter(range(len(order)), values, s=36, color=COLOURS[column], zorder=3)
            for place, value in enumerate(values):
                above = axes.annotate(
                    f"{value:.2f}", (place, value), xytext=(0, 7), textcoords="offset points", ha="center", zorder=4
                )
                above.set(fontsize=9, color=INK, path_effects=[withStroke(linewidth=3, foreground="white")])
            axes.set_xticks(range(len(order)), [f"{operation}\n{beta:.3f}" for operation, beta in order], rotation=35, ha="right")
            axes.margins(x=0.12, y=0.2)
            style(axes)
            axes.set_title(f"{label}: {name} test, %", loc="left", fontsize=10, fontweight="bold", color=INK)
    return figure


def _broken(name: str) -> str:
    """A long name in two lines, broken near its middle."""
    cuts = [place for place, letter in enumerate(name) if letter in "_ -+"]
    if len(name) <= 14 or not cuts:
        return name
    cut = min(cuts, key=lambda place: abs(place - len(name) // 2))
    return f"{name[: cut + 1]}\n{name[cut + 1 :]}"


def _turned(texts: Sequence[str]) -> dict[str, object]:
    return {"rotation": 35, "ha": "right"} if max(map(len, texts)) > 8 else {}
