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

from sr_nas.report.figures import FAINT, INK, line_styles, new_figure, style_epochs

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
        style_epochs(axes, max((curve.epochs for curve in curves.values()), key=len))
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
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
        style_epochs(axes, curve.epochs)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
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
    """Return a title for a quantity of :mod:`sr_nas.search.quantities`, and what to divide it by for the title's unit."""
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
