"""What all figures share: colours, and how they become files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

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
