"""Figures (matplotlib): beta of a search over the epochs, curves of a run, crops of images side by side, their common style."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
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
from sr_nas.metrics import luma
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

Image = npt.NDArray[np.uint8]
"""RGB, shape [H, W, 3], 0 to 255."""
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom excluded."""

DETAIL = 128
"""Side in pixels of the square that shows what a network gains."""
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


Panels = Mapping[str, Mapping[str, Sequence[float]]]
"""title of a panel -> label of a line -> its values by record; NaN where a record has none."""


def curves_figure(
    across: str, at: Sequence[int], panels: Panels, levels: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Return a figure with one panel of lines for each title, in order, over the epochs or iterations ``at``.

    ``levels`` are dotted lines to compare with: title of a panel -> label -> value.
    """
    figure, grid = panel_grid(len(panels), [], min(3, len(panels)))
    figure.supxlabel(across, fontsize=10, color=INK)
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        dotted = (levels or {}).get(title, {})
        for (label, look), values in zip(line_styles(lines).items(), lines.values(), strict=True):
            axes.plot(at, values, linewidth=1.6, **look, label=label, marker="o", markevery=[-1], markersize=5)
        for label, level in dotted.items():
            axes.axhline(level, color=FAINT, linewidth=1.2, linestyle=":", label=label, zorder=1)
        if len(lines) + len(dotted) > 1:
            axes.legend(frameon=False, fontsize=8)
        if max((abs(value) for values in lines.values() for value in values if value == value), default=0) >= 1e4:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        style_epochs(axes, title.replace("$", r"\$"))  # a user's name, and no formula
    return figure


def size_panels(history: Sequence[Mapping[str, Any]]) -> Panels:
    """Return the curves of a search but for its budgets: task loss of alpha and of the weights, size of the genotype."""
    losses = {"of alpha": "task", "of the weights": "train"}
    sizes = {"parameters": "params"} | {
        f"MACs, {key[5:].replace('hr_', 'HR output ')}": key for key in history[-1] if re.match(r"macs_(hr_|\d)", key)
    }
    return {"task loss": {label: [record["loss"].get(key, math.nan) for record in history] for label, key in losses.items()}} | {
        title: {"genotype": [record[key] for record in history]} for title, key in sizes.items() if key in history[-1]
    }


def budget_panels(history: Sequence[Mapping[str, Any]]) -> Panels:
    """Return for each budget of a search the cost over the budget: as beta expects it, of alpha's argmax, of the genotype.

    The last panel has the multipliers.
    """
    lines = {"expected by beta": "expected", "largest beta": "argmax", "genotype": "decoded"}
    budgets = {name: [record["budget"][name] for record in history] for name in history[-1].get("budget", {})}
    shares = {
        f"{name} / budget": {label: [one[key] / one["limit"] for one in records] for label, key in lines.items()}
        for name, records in budgets.items()
    }
    return shares | {"multiplier": {name: [one["multiplier"] for one in records] for name, records in budgets.items()}}


def training_panels(history: Sequence[Mapping[str, Any]]) -> tuple[Panels, dict[str, dict[str, float]]]:
    """Return the curves of a training and the levels to compare with: losses, scores by set beside bicubic, learning rate."""
    last, apart = history[-1], ("iteration", "learning_rate", "memory_bytes")
    losses = [key for key, value in last.items() if isinstance(value, float) and key not in apart]
    panels, levels = {"loss": {key: [record.get(key, math.nan) for record in history] for key in losses}}, {}
    for name, scores in last.get("val", {}).items():
        metric = next(iter(scores))
        title = f"{name}, {'PSNR in dB' if metric == 'psnr' else metric}"
        panels[title] = {"network": [record["val"][name][metric] for record in history]}
        levels[title] = {"bicubic": scores["bicubic"][metric]} if "bicubic" in scores else {}
    return panels | {"learning rate": {"": [record["learning_rate"] for record in history]}}, levels


def front_figure(cost: str, points: Sequence[tuple[float, float]], limit: float | None = None) -> Figure:
    """Return a figure of the Pareto front of a search, (cost, sum of log beta) of each network, with the budget where one is."""
    figure = new_figure(4.0, 2.9)
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
    """Return ``key``, such as ``"beta"``, over the epochs of a search history, per label, ``[epochs, candidates]``.

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
    width = 3.2 * columns + (max(2.3, 0.8 + LETTER * max(map(len, legend))) if legend else 0.3)
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
        about = {"Description": figure.get_label()} if figure.get_label() else None
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=figure.dpi, metadata=about)
        if colours and path.suffix == ".png":
            PILImage.open(temporary).convert("RGB").quantize(colours).save(temporary, "png")


def comparison_figure(columns: Sequence[tuple[str, Image]], crop: Box) -> Figure:
    """Return a figure of the same crop of every image side by side; its ``images`` are the enlarged crops, in order.

    Every image pixel becomes a square of whole figure pixels (nearest neighbour): nothing is resampled. The figure's label is the
    JSON that :func:`save` writes into a PNG, from which a page cuts the crops again (:func:`sr_nas.report.page.crops_of`).

    Args:
        columns: (title, image), e.g. bicubic, network and HR; images of one size.
        crop: the region.

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
    left, top, right, bottom = crop
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
    places = []
    for position, (title, image) in enumerate(columns):
        x = MARGIN + position * (column + MARGIN) + (column - crop_width) // 2
        enlarged = image[top:bottom, left:right].repeat(zoom, axis=0).repeat(zoom, axis=1)
        figure.figimage(enlarged, xo=x, yo=TITLE_HEIGHT, origin="upper")
        places.append({"title": title, "box": (x, TITLE_HEIGHT, x + crop_width, TITLE_HEIGHT + crop_height), "zoom": zoom})
        centre = (x + crop_width / 2) / figure_width
        figure.text(centre, 1 - TITLE_HEIGHT / 2 / figure_height, title, fontsize=TITLE_SIZE, **look)
    figure.text(0.5, TITLE_HEIGHT / 2 / figure_height, footer, fontsize=FOOTER_SIZE, **look)
    figure.set_label(json.dumps(places))
    return figure


def extreme_gains(sr: Image, baseline: Image, hr: Image, shave: int, side: int) -> dict[str, tuple[float, Box]]:
    """Return ``{"best": (gain, box), "worst": (gain, box)}`` of one image, by the errors of Y in every square.

    The best square is where the baseline's mean squared error exceeds that of ``sr`` most; its gain is the difference. A ratio
    would not tell a square full of detail from one that is half empty. The worst is where ``sr`` has the least PSNR over the
    baseline; its gain is in dB, negative where the baseline is nearer to HR. It is looked for where the baseline errs at least
    as much as in the mean over all squares: in the sky, for example, there is nothing to gain. Of equal squares the first in
    reading order is taken.

    Args:
        sr: the result, uint8 [H, W, 3], RGB; so are ``baseline``, which it is compared with, and ``hr``, the original.
        shave: pixels at each border that no square reaches into.
        side: of the squares in pixels; less where the shaved image is smaller.
    """
    inner = (slice(shave, hr.shape[0] - shave), slice(shave, hr.shape[1] - shave))
    errors = [squared_error(image, hr)[inner] for image in (baseline, sr)]
    side = min(side, *errors[0].shape)
    before, after = (window_sums(error, side) / side**2 for error in errors)
    removed = before - after
    decibels = 10 * np.log10(before.clip(0.01) / after.clip(0.01))  # 68 dB or more is no error
    decibels[before < min(before.mean(), before.max())] = np.inf
    extremes = {}
    for which, gains, position in (("best", removed, removed.argmax()), ("worst", decibels, decibels.argmin())):
        top, left = (int(index) for index in np.unravel_index(position, gains.shape))
        extremes[which] = (float(gains[top, left]), (left + shave, top + shave, left + shave + side, top + shave + side))
    return extremes


def squared_error(image: Image, hr: Image) -> Values:
    """Return the squared difference of Y, [H, W]."""
    return (luma(image) - luma(hr)) ** 2


def window_sums(values: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return the sum over every square of ``side`` pixels, by its top left pixel: [H, W] -> [H - side + 1, W - side + 1]."""
    integral = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return integral[side:, side:] - integral[:-side, side:] - integral[side:, :-side] + integral[:-side, :-side]


def text_width(text: str, size: float, dpi: int = PICTURE_DPI) -> int:
    """Return the width of a line of text of so many points in figure pixels, rounded up."""
    artist = Figure(dpi=dpi).text(0, 0, text, fontsize=size, parse_math=False)
    return int(np.ceil(artist.get_window_extent().width))
