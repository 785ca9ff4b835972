"""Figures of single analyses: gaps of methods, a landscape, a grid of searches, replaced operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sr_nas.report.figures import COLOURS, FAINT, INK, new_figure, style

Values = npt.NDArray[np.float64]
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


def landscape_figure(surfaces: Mapping[str, Mapping[str, Values]], steps: Sequence[float], unit: str) -> Figure:
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


def line_figure(panels: Mapping[str, tuple[Values, Values]], values: Sequence[str], key: str) -> Figure:
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
    panels: Mapping[str, tuple[Values, Values]], rows: Sequence[str], columns: Sequence[str], row_key: str, column_key: str
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
