"""Figures (matplotlib): beta and alpha of a search over the epochs, crops of images side by side, and their common style."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image as PILImage

from sr_nas.errors import UserError, listing
from sr_nas.runs.files import replacing

DPI = 150
INK, FAINT = "#222222", "#8A8A8A"
# Okabe and Ito's palette for colour-blind readers, without its yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A5A5A")
# Line styles of the first, second and third round through the colours.
PLAIN_DASHES = ("solid", (0, (1, 1)), (0, (5, 1, 1, 1)))
BN_DASHES = ((0, (4, 1.5)), (0, (2, 1.5, 1, 1.5)), (0, (8, 2, 2, 2)))
LETTER = 0.085
"""Approximate width of a letter of a legend in inches."""
TITLE_LETTERS = 34
"""Letters that fit above a panel at full size: its title and the names of the selected candidates."""

Values = npt.NDArray[np.float64]
Candidates = Mapping[str, Sequence[str]]
"""label -> names of its candidates; position i belongs to alpha[i]."""

STATISTICS: dict[str, Callable[..., Values]] = {"mean": np.mean, "median": np.median, "standard deviation": np.std}
"""Statistics of the alphas of one choice in one epoch; the deviation is that of the population (divided by N)."""

Image = npt.NDArray[np.uint8]
"""RGB, shape [H, W, 3], 0 to 255."""
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom excluded."""

DETAIL = 128
"""Side in pixels of the square that is chosen where no crop is given."""
COLUMN = 480
"""Crops are enlarged by the largest whole number that keeps their longer side within this many pixels of the figure."""
MARGIN, TITLE_HEIGHT, TITLE_SIZE, FOOTER_SIZE = 16, 34, 9.5, 7.0
PICTURE_DPI = 128
"""A power of two: sizes in pixels survive their division into inches exactly."""


@dataclass(frozen=True)
class BetaCurves:
    """Beta of the candidates of one choice over the epochs.

    Attributes:
        epochs: of the records.
        names: of the candidates.
        mean: ``[epochs, candidates]``: beta, or its mean over several searches.
        selected: candidates to draw bold and to name above the panel.
        std: standard deviation over several searches, drawn as a band; ``None`` for a single search.
    """

    epochs: Sequence[int]
    names: Sequence[str]
    mean: Values
    selected: Collection[str]
    std: Values | None = None


def beta_curves(history: Sequence[Mapping[str, Any]], choices: Candidates) -> dict[str, BetaCurves]:
    """Return the curves of one search by label, with the selection of the last epoch; UserError as in :func:`series`."""
    epochs, beta = [record["epoch"] for record in history], series(history, choices, "beta")
    return {label: BetaCurves(epochs, names, beta[label], winners(history[-1], label, names)) for label, names in choices.items()}


def beta_figure(panels: Mapping[str, BetaCurves], note: str = "") -> Figure:
    """Return a figure with one panel per choice (or per method): figures 2 and 4 of SA-DARTS.

    Each panel has one line per candidate, in order, and a dotted one at 1/N, near which all of them start. ``note`` is
    written above the legend, e.g. what the bands are.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves.names))
    figure, grid = panel_grid(len(panels), [*names, *note.splitlines()], sharey=True)
    styles = line_styles(names)
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for index, name in enumerate(curves.names):
            bold, mean = name in curves.selected, curves.mean[:, index]
            look: dict[str, Any] = (
                {"linewidth": 3.0, "zorder": 3, "markersize": 7} if bold else {"linewidth": 1.2, "alpha": 0.8, "markersize": 4}
            )
            axes.plot(curves.epochs, mean, **look, **styles[name], marker="o", markevery=[-1])
            if curves.std is not None:
                low, high = ((mean + sign * curves.std[:, index]).clip(0, 1) for sign in (-1, 1))
                axes.fill_between(curves.epochs, low, high, color=styles[name]["color"], alpha=0.15, linewidth=0)
        axes.axhline(1 / len(curves.names), color=FAINT, linewidth=1.0, linestyle=":", zorder=1)
        style_epochs(axes, title)
        selected = " + ".join(curves.selected)
        axes.set_title(selected, loc="right", fontsize=9 * min(1.0, TITLE_LETTERS / len(title + selected)), color=INK)
        # The last values of the selected candidates stand right of their lines.
        last = [float(curves.mean[-1, curves.names.index(name)]) for name in curves.selected]
        text = "\n".join(f"{value:.3f}" for value in sorted(last, reverse=True))
        place = (curves.epochs[-1], float(np.mean(last)))
        axes.annotate(text, place, (7, 0), textcoords="offset points", va="center", fontsize=9, fontweight="bold", color=INK)
    add_legend(figure, styles | {"1/N, uniform": {"color": FAINT, "linestyle": ":"}}, note)
    figure.supylabel("weight beta of a candidate", fontsize=10, color=INK)
    return figure


def alpha_figure(history: Sequence[Mapping[str, Any]], choices: Candidates) -> Figure:
    """Return a figure with the mean, median and standard deviation of alpha over the epochs: figure 3 of SA-DARTS.

    Each panel has one line per choice, in order, then one over all choices.
    """
    alpha = series(history, choices, "alpha")
    epochs = [record["epoch"] for record in history]
    styles = line_styles(choices) | {"all choices": {"color": "#B5B5B5", "linewidth": 5.0, "markersize": 10, "zorder": 1}}
    figure, grid = panel_grid(len(STATISTICS), list(styles))
    everything = np.concatenate(list(alpha.values()), axis=1)
    for axes, (name, statistic) in zip(grid, STATISTICS.items(), strict=True):
        for (label, look), values in zip(styles.items(), [*alpha.values(), everything], strict=True):
            drawing = {"linewidth": 1.6, "markersize": 5} | look
            axes.plot(epochs, statistic(values, axis=1), label=label, **drawing, marker="o", markevery=[-1])
        style_epochs(axes, f"{name} of alpha")
    add_legend(figure, styles)
    return figure


def budget_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Return a figure of the budgets of a search: costs over the budget by epoch, and the multipliers.

    Each budget has a panel with the cost that beta expects, that of alpha's argmax, and that of the decoded genotype.
    """
    names, epochs = list(history[-1]["budget"]), [record["epoch"] for record in history]
    lines = {"expected": "expected by beta", "argmax": "largest beta", "decoded": "genotype"}
    styles = line_styles(lines.values()) | {"budget": {"color": FAINT, "linestyle": ":"}}
    figure, grid = panel_grid(len(names) + 1, [*styles, *names])
    for axes, name in zip(grid, names, strict=False):
        for key, label in lines.items():
            share = [record["budget"][name][key] / record["budget"][name]["limit"] for record in history]
            axes.plot(epochs, share, linewidth=1.6, **styles[label], marker="o", markevery=[-1], markersize=5)
        axes.axhline(1, color=FAINT, linewidth=1.0, linestyle=":", zorder=1)
        style_epochs(axes, f"{name} / budget")
    for name, look in line_styles(names).items():
        grid[-1].plot(
            epochs, [record["budget"][name]["multiplier"] for record in history], **look, label=name, marker="o", markevery=[-1]
        )
    style_epochs(grid[-1], "multiplier")
    if len(names) > 1:
        grid[-1].legend(frameon=False, fontsize=8)
    add_legend(figure, styles)
    return figure


def front_figure(cost: str, points: Sequence[tuple[float, float]], limit: float | None = None) -> Figure:
    """Return a figure of the Pareto front of a search, (cost, sum of log beta) of each network, with the budget where one is."""
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    costs, log_beta = zip(*sorted(points), strict=True)
    axes.step(costs, log_beta, where="post", color=COLOURS[0], linewidth=1.4)
    axes.plot(costs, log_beta, "o", color=COLOURS[0], markersize=4)
    if limit is not None:
        axes.axvline(limit, color=FAINT, linewidth=1.0, linestyle=":")
        axes.annotate("budget", (limit, 0.02), (3, 0), ("data", "axes fraction"), "offset points", fontsize=8, color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    style(axes, "best network for each budget", cost, "sum of log beta")
    return figure


def latency_figure(points: Sequence[tuple[float, float]]) -> Figure:
    """Return a figure of the predicted and the measured latency of networks in milliseconds, with the line of equality."""
    figure = new_figure(4.2, 3.8)
    axes = figure.subplots()
    predicted, measured = zip(*points, strict=True)
    ends = [min(*predicted, *measured), max(*predicted, *measured)]
    axes.plot(ends, ends, color=FAINT, linewidth=1.0, linestyle=":")
    axes.plot(predicted, measured, "o", color=COLOURS[0], markersize=5, alpha=0.8)
    style(axes, "latency of random networks", "predicted by the table, ms", "measured, ms")
    return figure


def series(history: Sequence[Mapping[str, Any]], choices: Candidates, key: str) -> dict[str, Values]:
    """Return ``key`` (``"alpha"`` or ``"beta"``) over the epochs of a search history, per label, ``[epochs, candidates]``.

    Raises:
        UserError: the history is empty or belongs to other choices.
    """
    if not history:
        raise UserError("the search history has no epoch yet: there is nothing to plot. Let the search finish one epoch first.")
    for record in history:
        for label, names in choices.items():
            if label not in record[key]:
                problem = f"no {key} for the choice '{label}' (it has {listing(record[key])})"
            elif len(record[key][label]) != len(names):
                problem = f"{len(record[key][label])} values of {key} for '{label}', which has {len(names)} candidates"
            else:
                continue
            raise UserError(f"epoch {record['epoch']} of the search history has {problem}: it belongs to another search space.")
    return {label: np.array([record[key][label] for record in history], dtype=np.float64) for label in choices}


def winners(record: Mapping[str, Any], label: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the candidates that the genotype selects at ``label``; where it has no such label, the one of largest beta."""
    selected = record["genotype"]["genotype"].get(label, names[int(np.argmax(record["beta"][label]))])
    return (selected,) if isinstance(selected, str) else tuple(selected)


def line_styles(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker filling by name.

    A candidate and its ``_bn`` variant share a colour; the line of the variant is dashed and its marker hollow.
    """
    stems = list(dict.fromkeys(name.removesuffix("_bn") for name in names))
    styles: dict[str, dict[str, Any]] = {}
    for name in names:
        rounds, position = divmod(stems.index(name.removesuffix("_bn")), len(COLOURS))
        dashes, filling = (BN_DASHES, "white") if name.endswith("_bn") else (PLAIN_DASHES, COLOURS[position])
        styles[name] = {"color": COLOURS[position], "linestyle": dashes[rounds % len(dashes)], "markerfacecolor": filling}
    return styles


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, whose parts do not overlap."""
    return Figure(figsize=(width, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def panel_grid(
    count: int, legend: Collection[str], columns: int | None = None, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of ``count`` panels over common epochs, and room for a legend of these lines of text."""
    columns = columns or (count if count <= 3 else math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    width = 3.2 * columns + max(2.3, 0.8 + LETTER * max(map(len, legend)))
    figure = new_figure(width, max(2.3 * rows + 0.7, 0.21 * len(legend) + 1.0))
    grid = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("epoch", fontsize=10, color=INK)
    return figure, grid[:count]


def add_legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]], note: str = "") -> None:
    """Put a legend of line styles by name right of the panels, with ``note`` above it."""
    handles = [Line2D([], [], **({"linewidth": 2.0} | dict(look)), label=name) for name, look in styles.items()]
    place: dict[str, Any] = {"loc": "outside right center", "frameon": False, "fontsize": 9, "handlelength": 2.8}
    figure.legend(handles=handles, title=note or None, title_fontsize=8, alignment="left", **place)


def style(axes: Axes, title: str, x: str = "", y: str = "", boxed: bool = False) -> None:
    """Give axes the common look, a title and labels; unless they are boxed, a faint grid under the lines and no box."""
    if not boxed:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=INK)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def style_epochs(axes: Axes, title: str) -> None:
    """Give axes over epochs the common look, a title, and whole numbers on the x axis, even for a single epoch."""
    style(axes, title)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def save(figure: Figure, path: Path, colours: int | None = None) -> None:
    """Write a figure in the format of the suffix, all or nothing; missing folders are made.

    A .png has the figure's resolution, and only so many ``colours`` (up to 256) where that is given, which makes it small.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=figure.dpi)
        if colours and path.suffix == ".png":
            PILImage.open(temporary).convert("RGB").quantize(colours).save(temporary, "png")


def comparison_figure(columns: Sequence[tuple[str, Image]], crop: Box | None = None) -> Figure:
    """Return a figure of the same crop of every image side by side; its ``images`` are the enlarged crops, in order.

    Every image pixel becomes a square of whole figure pixels (nearest neighbour): nothing is resampled.

    Args:
        columns: (title, image), e.g. bicubic, network and HR; images of one size.
        crop: the region; by default the most detailed square of the last image.

    Raises:
        UserError: images of different sizes, or a crop that does not lie inside them.
    """
    # A file's name may hold bytes that are not UTF-8, which matplotlib does not take.
    columns = [(title.encode("utf-8", "backslashreplace").decode(), image) for title, image in columns]
    sizes = {title: f"{image.shape[1]}x{image.shape[0]}" for title, image in columns}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"'{title}' is {size}" for title, size in sizes.items())
        raise UserError(f"only images of one size can be compared, but {listed}. Crop HR to a multiple of the scale first.")
    height, width = columns[-1][1].shape[:2]
    left, top, right, bottom = crop or most_detailed(columns[-1][1], min(DETAIL, height, width))
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(
            f"the crop (left {left}, top {top}, right {right}, bottom {bottom}) does not lie inside the images, "
            f"which are {width} wide and {height} high."
        )
    zoom = max(1, COLUMN // max(right - left, bottom - top))
    crop_width, crop_height = (right - left) * zoom, (bottom - top) * zoom
    footer = f"{right - left}x{bottom - top} pixels at ({left}, {top}), each drawn as {zoom}x{zoom}"
    column = max(crop_width, *(text_width(title, TITLE_SIZE) for title, _ in columns))
    figure_width = MARGIN + max(len(columns) * (column + MARGIN), text_width(footer, FOOTER_SIZE) + MARGIN)
    figure_height = TITLE_HEIGHT + crop_height + TITLE_HEIGHT
    figure = Figure(figsize=(figure_width / PICTURE_DPI, figure_height / PICTURE_DPI), dpi=PICTURE_DPI)
    look: dict[str, Any] = {"color": INK, "ha": "center", "va": "center", "parse_math": False}
    for position, (title, image) in enumerate(columns):
        x = MARGIN + position * (column + MARGIN) + (column - crop_width) // 2
        enlarged = image[top:bottom, left:right].repeat(zoom, axis=0).repeat(zoom, axis=1)
        figure.figimage(enlarged, xo=x, yo=TITLE_HEIGHT, origin="upper")
        centre = (x + crop_width / 2) / figure_width
        figure.text(centre, 1 - TITLE_HEIGHT / 2 / figure_height, title, fontsize=TITLE_SIZE, **look)
    figure.text(0.5, TITLE_HEIGHT / 2 / figure_height, footer, fontsize=FOOTER_SIZE, **look)
    return figure


def most_detailed(image: Image, side: int) -> Box:
    """Return the square of ``side`` pixels with the highest gradient energy; of equal ones the first in reading order.

    The energy of a pixel is the sum of its squared differences to the pixel right of it and to the one below, of R + G + B.
    """
    grey = image.sum(axis=2, dtype=np.int64)
    energy = np.zeros_like(grey)
    energy[:, :-1] += np.diff(grey, axis=1) ** 2
    energy[:-1] += np.diff(grey, axis=0) ** 2
    sums = window_sums(energy, side)
    top, left = (int(index) for index in np.unravel_index(sums.argmax(), sums.shape))
    return left, top, left + side, top + side


def window_sums(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return the sum over every square of ``side`` pixels, by its top left pixel: [H, W] -> [H - side + 1, W - side + 1]."""
    integral = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return integral[side:, side:] - integral[:-side, side:] - integral[side:, :-side] + integral[:-side, :-side]


def text_width(text: str, size: float, dpi: int = PICTURE_DPI) -> int:
    """Return the width of a line of text of so many points in figure pixels, rounded up."""
    artist = Figure(dpi=dpi).text(0, 0, text, fontsize=size, parse_math=False)
    return int(np.ceil(artist.get_window_extent().width))
