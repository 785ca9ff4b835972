"""What all figures share: colours, and how they become files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sr_nas.errors import UserError, listing
from sr_nas.genotype import JOINT
from sr_nas.runs.files import replacing

DPI = 150

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
"""Okabe and Ito's palette, told apart by colour-blind readers, without the yellow, which white paper swallows."""

PLAIN_DASHES = ("solid", (0, (1, 1)), (0, (5, 1, 1, 1)))
BN_DASHES = ((0, (4, 1.5)), (0, (2, 1.5, 1, 1.5)), (0, (8, 2, 2, 2)))
"""Line styles of the first, second and third round through the colours."""

INK = "#222222"
FAINT = "#8A8A8A"


def line_styles(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker filling by name.

    A candidate and its ``_bn`` variant share a colour; the line of the variant is dashed and its marker hollow.
    """
    stems = list(dict.fromkeys(name.removesuffix("_bn") for name in names))
    styles: dict[str, dict[str, Any]] = {}
    for name in names:
        rounds, position = divmod(stems.index(name.removesuffix("_bn")), len(COLOURS))
        colour = COLOURS[position]
        is_variant = name.endswith("_bn")
        dashes = BN_DASHES if is_variant else PLAIN_DASHES
        filling = "white" if is_variant else colour
        styles[name] = {"color": colour, "linestyle": dashes[rounds % len(dashes)], "markerfacecolor": filling}
    return styles


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, whose parts keep clear of each other."""
    return Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def style(axes: Axes) -> None:
    """Give axes the house's look: no box, a faint grid under the lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)


def style_epochs(axes: Axes, epochs: Sequence[int]) -> None:
    """The look of axes whose x is epochs, of which there may be one alone."""
    style(axes)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG at its own resolution, whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=figure.dpi)


# MERGED sr_nas.report.plots: What a record of the search history says, as arrays and as words.


Candidates = Mapping[str, Sequence[str]]
"""label -> names of its candidates; position i belongs to alpha[i]."""

Record = Mapping[str, Any]
"""One epoch of a search, as ``Searcher.record`` makes it, with the parameters and MACs of its genotype; epoch 0 is the start."""


def series(history: Sequence[Record], choices: Candidates, key: str) -> dict[str, npt.NDArray[np.float64]]:
    """Return ``key`` (``"alpha"`` or ``"beta"``) over the epochs, per label, shape [epochs, candidates].

    Raises:
        UserError: the history is empty or belongs to other choices.
    """
    if not history:
        raise UserError("the search history has no epoch yet: there is nothing to plot. Let the search finish one epoch first.")
    for record in history:
        for label, names in choices.items():
            if label not in record[key]:
                found = f"no {key} for the choice '{label}' (it has {listing(record[key])})"
            elif len(record[key][label]) != len(names):
                found = f"{len(record[key][label])} values of {key} for '{label}', which has {len(names)} candidates"
            else:
                continue
            raise UserError(f"epoch {record['epoch']} of the search history has {found}: it belongs to another search space.")
    return {label: np.array([record[key][label] for record in history], dtype=np.float64) for label in choices}


def winners(record: Record, label: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return what the genotype keeps at ``label``; where the genotype has no such label, the candidate of largest beta."""
    kept = record["genotype"]["genotype"].get(label)
    if kept is None:
        return (names[int(np.argmax(record["beta"][label]))],)
    return (kept,) if isinstance(kept, str) else tuple(kept)


def genotype_text(record: Record) -> str:
    """Return e.g. ``IMDN(conv_3x3, dsconv_3x3_bn)``; several names kept by one choice are joined with ``+``."""
    genotype = record["genotype"]
    kept = [names if isinstance(names, str) else JOINT.join(names) for names in genotype["genotype"].values()]
    return f"{genotype['arch']}({', '.join(kept)})"


def macs(record: Record, decimals: int = 1) -> dict[str, str]:
    """Return every ``macs_[lr_|hr_]<width>x<height>`` of a record under the full name of its convention.

    MACs of super-resolution networks are quoted for an LR input or for an HR output of a given size; they differ by the
    square of the scale, so a number without its convention means nothing.
    """
    convention = {"lr": "LR input", "hr": "HR output", None: "input"}
    found = {key: re.fullmatch(r"macs_(?:(lr|hr)_)?(\d+x\d+)", key) for key in record}
    return {f"MACs, {convention[match[1]]} {match[2]}": giga(record[key], decimals) for key, match in found.items() if match}


def truth(record: Record) -> dict[str, str]:
    """Return data set -> true accuracies of the record's network, where they are known (NAS-Bench-201)."""
    known = record.get("true_accuracy", {})
    return {name: f"valid {found['valid']:.2f} test {found['test']:.2f}" for name, found in known.items()}


def giga(count: float, decimals: int = 1) -> str:
    """Return a count in units of 10^9 (G), or of 10^6 (M) below that."""
    return f"{count / 1e9:.{decimals}f} G" if count >= 1e9 else f"{count / 1e6:.{decimals}f} M"


def number(value: float) -> str:
    """Return a loss, rate or strength with six significant digits, trailing zeros dropped."""
    return f"{value:.6g}"


# MERGED sr_nas.report.plots: How alpha and beta moved during a search.


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
