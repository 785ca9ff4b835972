"""How alpha and beta moved during a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sr_nas.report.figures import FAINT, INK, line_styles, new_figure, save, style_epochs
from sr_nas.report.records import Candidates, Record, series, winners

TITLE_CHARACTERS = 34
"""What fits above a panel beside each other at full size: its label and what is kept there."""

STATISTICS: dict[str, Callable[..., npt.NDArray[np.float64]]] = {
    "mean": np.mean,
    "median": np.median,
    "standard deviation": np.std,
}
"""Of the alphas of one choice in one epoch; the deviation is that of the population (divided by N)."""


def plot_beta(history: Sequence[Record], choices: Candidates, path: Path) -> None:
    """Write a PNG with one panel per choice: beta of every candidate over the epochs.

    The candidate that the genotype of the last epoch keeps is drawn bold and named above its panel; the dotted line is 1/N,
    near which every candidate starts.

    Raises:
        UserError: the history is empty or belongs to other choices.
    """
    save(beta_figure(history, choices), path)


def plot_alpha(history: Sequence[Record], choices: Candidates, path: Path) -> None:
    """Write a PNG with the mean, median and standard deviation of alpha over the epochs, per choice and over all choices.

    This is figure 3 of SA-DARTS.

    Raises:
        UserError: the history is empty or belongs to other choices.
    """
    save(alpha_figure(history, choices), path)


def beta_figure(history: Sequence[Record], choices: Candidates) -> Figure:
    """Return the figure of :func:`plot_beta`; in each of its axes, one line per candidate in order, then 1/N."""
    beta = series(history, choices, "beta")
    epochs = [record["epoch"] for record in history]
    styles = line_styles(dict.fromkeys(name for names in choices.values() for name in names))
    columns = math.ceil(math.sqrt(len(choices)))
    rows = math.ceil(len(choices) / columns)
    height = max(2.3 * rows + 0.7, 0.21 * len(styles) + 1.0)
    figure = new_figure(3.2 * columns + 2.3, height)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (label, names) in zip(grid, choices.items(), strict=False):
        kept = winners(history[-1], label, names)
        for index, name in enumerate(names):
            won = name in kept
            axes.plot(
                epochs,
                beta[label][:, index],
                **styles[name],
                linewidth=3.0 if won else 1.2,
                alpha=1.0 if won else 0.8,
                zorder=3 if won else 2,
                marker="o" if won or len(epochs) == 1 else None,
                markersize=7 if won else 5,
                markevery=[len(epochs) - 1],
            )
        _write_values(axes, epochs[-1], [float(beta[label][-1, names.index(name)]) for name in kept])
        axes.axhline(1 / len(names), color=FAINT, linewidth=1.0, linestyle=":", zorder=1)
        style_epochs(axes, epochs)
        axes.set_title(label, loc="left", fontsize=10, fontweight="bold", color=INK)
        title = " + ".join(kept)
        axes.set_title(title, loc="right", fontsize=9 * min(1.0, TITLE_CHARACTERS / (len(label) + len(title))), color=INK)
    for position in range(len(choices), len(grid)):
        grid[position].remove()
        grid[position - columns].tick_params(labelbottom=True)
    marker = "o" if len(epochs) == 1 else None
    handles = [Line2D([], [], label=name, linewidth=2.0, marker=marker, **style) for name, style in styles.items()]
    handles.append(Line2D([], [], label="1/N, uniform", color=FAINT, linewidth=1.0, linestyle=":"))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9, handlelength=2.8)
    figure.supxlabel("epoch", fontsize=10, color=INK)
    figure.supylabel("weight beta of a candidate", fontsize=10, color=INK)
    return figure


def alpha_figure(history: Sequence[Record], choices: Candidates) -> Figure:
    """Return the figure of :func:`plot_alpha`; in each of its axes, one line per choice in order, then one of all alphas."""
    alpha = series(history, choices, "alpha")
    epochs = [record["epoch"] for record in history]
    everything = np.concatenate(list(alpha.values()), axis=1)
    styles = line_styles(choices)
    figure = new_figure(11.5, max(3.4, 0.21 * len(choices) + 1.0))
    marker = "o" if len(epochs) == 1 else None
    for axes, (name, statistic) in zip(figure.subplots(1, len(STATISTICS)), STATISTICS.items(), strict=True):
        for label in choices:
            axes.plot(
                epochs, statistic(alpha[label], axis=1), **styles[label], linewidth=1.6, label=label, marker=marker, markersize=5
            )
        axes.plot(
            epochs,
            statistic(everything, axis=1),
            color="#B5B5B5",
            linewidth=5.0,
            label="all choices",
            zorder=1,
            marker=marker,
            markersize=10,
        )
        style_epochs(axes, epochs)
        axes.set_title(f"{name} of alpha", loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel("epoch", fontsize=10, color=INK)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9, handlelength=2.8)
    return figure


def _write_values(axes: Axes, epoch: int, values: list[float]) -> None:
    """Write numbers right of their lines; of several the highest sits above its line and the lowest below."""
    for value in values:
        alignment = "center_baseline"
        if len(values) > 1 and value in (max(values), min(values)):
            alignment = "bottom" if value == max(values) else "top"
        offset: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points", "va": alignment}
        axes.annotate(f"{value:.3f}", (epoch, value), **offset, fontsize=9, fontweight="bold", color=INK)
