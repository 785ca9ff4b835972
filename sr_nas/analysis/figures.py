"""Figures of the analyses: curves of several methods, gaps, loss landscapes, grids of searches, replaced operations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from sr_nas.analysis.history import Trials, axis_label, upper_bound
from sr_nas.report.plots import COLOURS, FAINT, INK, Values, add_legend, line_styles, new_figure, panel_grid, style, style_epochs

LEVELS = 15  # lines of equal height in a landscape
BRIGHT = 0.6  # beyond this share of a colour map's range it is too bright for white letters
BOLD: dict[str, Any] = {"loc": "left", "fontsize": 10, "fontweight": "bold", "color": INK}
SMALL: dict[str, Any] = {"fontsize": 9, "color": INK}


def method_curves(panels: Mapping[str, Mapping[str, Trials]], columns: int, band: str) -> Figure:
    """Return a figure with a panel per quantity and in each a line per method, in a band of one standard deviation.

    Args:
        panels: quantity -> method -> trials, ``[runs, epochs]``.
        columns: panels beside each other.
        band: heading of the legend: what the bands are.
    """
    styles = line_styles(dict.fromkeys(name for methods in panels.values() for name in methods))
    figure, grid = panel_grid(len(panels), list(styles), band, columns)
    for axes, (quantity, methods) in zip(grid, panels.items(), strict=True):
        title, unit = axis_label(quantity)
        bound = upper_bound(quantity)
        for method, trials in methods.items():
            marker = "o" if np.isfinite(trials.mean).sum() == 1 else None
            axes.plot(trials.epochs, trials.mean / unit, **styles[method], linewidth=1.8, marker=marker, markersize=5)
            low, high = trials.mean - trials.std, trials.mean + trials.std
            if bound is not None:
                low, high = low.clip(0, bound), high.clip(0, bound)
            axes.fill_between(trials.epochs, low / unit, high / unit, color=styles[method]["color"], alpha=0.15, linewidth=0)
        style_epochs(axes, max((trials.epochs for trials in methods.values()), key=len), title)
    add_legend(figure, styles, band)
    return figure


def gaps_figure(gaps: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> Figure:
    """Return a figure of every trial's top-2 gap by method, on a logarithmic scale, with the mean as a bar.

    Args:
        gaps: method -> a gap per trial; a gap of 0, which has no logarithm, is drawn at the bottom.
        labels: method -> second line below it, e.g. the edge.
    """
    figure = new_figure(max(4.5, 1.5 * len(gaps) + 1.2), 3.8)
    axes = figure.subplots()
    floor = 0.5 * min((gap for trials in gaps.values() for gap in trials if gap > 0), default=1e-3)
    for place, trials in enumerate(gaps.values()):
        offsets = np.linspace(-0.15, 0.15, len(trials)) if len(trials) > 1 else np.zeros(1)
        colour = COLOURS[place % len(COLOURS)]
        axes.scatter(place + offsets, np.maximum(trials, floor), s=28, color=colour, alpha=0.8, zorder=3)
        mean = max(float(np.mean(trials)), floor)
        axes.plot([place - 0.28, place + 0.28], [mean, mean], color=INK, linewidth=2.0, zorder=4)
        axes.annotate(f"{np.mean(trials):.2g}", (place + 0.3, mean), va="center", fontweight="bold", **SMALL)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(gaps) - 0.2)
    axes.set_xticks(range(len(gaps)), [f"{textwrap.fill(method, 18)}\n{labels[method]}" for method in gaps])
    style(axes)
    axes.set_title("top-2 gap of beta by seed, and its mean", loc="left", fontsize=10, color=INK)
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
            filled = axes.contourf(steps, steps, rows[name], levels=levels, cmap="viridis")
            axes.contour(steps, steps, rows[name], levels=levels, colors="white", linewidths=0.4, alpha=0.6)
            axes.plot(0, 0, marker="+", markersize=11, markeredgewidth=2, color="white")
            axes.set_title(f"{title}: {name}", **BOLD)
            axes.tick_params(labelsize=9, colors=INK)
            axes.set_aspect("equal")
        bar = figure.colorbar(filled, ax=grid[:, column].tolist(), shrink=0.9 / len(surfaces) ** 0.3, format="%.4g")
        bar.ax.tick_params(labelsize=9, colors=INK)
        grid[-1, column].set_xlabel(f"first direction, {unit}", **SMALL)
    for axes in grid[:, 0]:
        axes.set_ylabel("second direction", **SMALL)
    return figure


Panels = Mapping[str, tuple[Values, Values]]
"""title -> mean and standard deviation, NaN where there is none."""


def line_figure(panels: Panels, values: Sequence[str], key: str) -> Figure:
    """Return a figure with one panel per quantity over the values of one option, evenly spaced.

    Args:
        panels: arrays of shape ``[values]``.
        values: of the option, as text.
        key: its name.
    """
    figure = new_figure(max(3.2, 0.6 * len(values) + 1.2) * len(panels) + 0.3, 3.3)
    for axes, (title, (mean, std)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.errorbar(range(len(values)), mean, np.nan_to_num(std), color=COLOURS[0], marker="o", linewidth=1.6, capsize=4)
        axes.set_xticks(range(len(values)), values, **_slanted(values))
        axes.set_xlim(-0.4, len(values) - 0.6)
        style(axes)
        axes.set_title(title, **BOLD)
        axes.set_xlabel(key, **SMALL)
    return figure


def heat_maps(panels: Panels, rows: Sequence[str], columns: Sequence[str], row_key: str, column_key: str) -> Figure:
    """Return a figure with one heat map per quantity over two options, mean and deviation written into the cells.

    Args:
        panels: arrays of shape ``[rows, columns]``.
        rows: values of the option named ``row_key``, as text.
        columns: values of the option named ``column_key``.
        row_key: label of the vertical axis.
        column_key: label of the horizontal axis.
    """
    width = max(1.05 * len(columns) + 0.07 * max(map(len, rows)) + 1.9, 3.6)
    figure = new_figure(width * len(panels) + 0.3, 0.6 * len(rows) + 1.5 + 0.05 * max(map(len, columns)))
    for axes, (title, (mean, std)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        image = axes.imshow(mean, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(mean):
            text = "-" if np.isnan(value) else f"{value:.4g}"
            text += "" if np.isnan(std[row, column]) else f"\n± {std[row, column]:.2g}"
            colour = INK if float(np.nan_to_num(image.norm(value))) > BRIGHT else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks(range(len(columns)), columns, **_slanted(columns))
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(labelsize=9, colors=INK, length=0)
        axes.set_xlabel(column_key, **SMALL)
        axes.set_ylabel(row_key, **SMALL)
        axes.set_title(title, **BOLD)
    return figure


def replacement_figure(
    edges: Mapping[str, Mapping[str, float]], accuracies: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Return a figure of true accuracies over an edge's operations in decreasing order of beta: a row per edge.

    Args:
        edges: label -> operation -> beta, the largest beta first.
        accuracies: label -> data set -> accuracy in percent, in the same order.
    """
    datasets = list(next(iter(accuracies.values())))
    figure = new_figure(4.0 * len(datasets) + 0.3, 3.1 * len(edges) + 0.3)
    grid = figure.subplots(len(edges), len(datasets), sharey="col", squeeze=False)
    outline = [withStroke(linewidth=3, foreground="white")]
    for row, (label, order) in zip(grid, edges.items(), strict=True):
        for column, (axes, name) in enumerate(zip(row, datasets, strict=True)):
            values = accuracies[label][name]
            axes.plot(range(len(order)), values, color=FAINT, linewidth=1.2, zorder=2)
            axes.scatter(range(len(order)), values, s=36, color=COLOURS[column], zorder=3)
            for place, value in enumerate(values):
                text = axes.annotate(f"{value:.2f}", (place, value), (0, 7), textcoords="offset points", ha="center", zorder=4)
                text.set(**SMALL, path_effects=outline)
            axes.set_xticks(
                range(len(order)), [f"{operation}\n{beta:.3f}" for operation, beta in order.items()], rotation=35, ha="right"
            )
            axes.margins(x=0.12, y=0.2)
            style(axes)
            axes.set_title(f"{label}: {name} test, %", **BOLD)
    return figure


def _slanted(texts: Sequence[str]) -> dict[str, object]:
    """Return the style of tick labels: slanted where they are long."""
    return {"rotation": 35, "ha": "right"} if max(map(len, texts)) > 8 else {}
