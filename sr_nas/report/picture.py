"""Pictures of one crop of several images side by side, enlarged so that single pixels can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sr_nas.errors import UserError
from sr_nas.report.plots import INK

Image = npt.NDArray[np.uint8]
"""RGB, shape [H, W, 3], 0 to 255."""

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom excluded."""

DETAIL = 128
"""Side in pixels of the square that is chosen where no crop is given."""
COLUMN = 480
"""Crops are enlarged by the largest whole number that keeps their longer side within this many pixels of the figure."""
MARGIN, TITLE_HEIGHT, TITLE_SIZE, FOOTER_SIZE = 16, 34, 9.5, 7.0
DPI = 128
"""A power of two: sizes in pixels survive their division into inches exactly."""


def comparison_figure(columns: Sequence[tuple[str, Image]], crop: Box | None = None) -> Figure:
    """Return a figure of the same crop of every image side by side; its ``images`` are the enlarged crops, in order.

    Every image pixel becomes a square of whole figure pixels (nearest neighbour): nothing is resampled.

    Args:
        columns: (title, image), e.g. bicubic, network and HR; images of one size.
        crop: the region; by default the most detailed square of the last image.

    Raises:
        UserError: no images, images of different sizes, or a crop that does not lie inside them.
    """
    if not columns:
        raise UserError("a comparison needs at least one image.")
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
    column = max(crop_width, *(_text_width(title, TITLE_SIZE) for title, _ in columns))
    figure_width = MARGIN + max(len(columns) * (column + MARGIN), _text_width(footer, FOOTER_SIZE) + MARGIN)
    figure_height = TITLE_HEIGHT + crop_height + TITLE_HEIGHT
    figure = Figure(figsize=(figure_width / DPI, figure_height / DPI), dpi=DPI)
    style: dict[str, Any] = {"color": INK, "ha": "center", "va": "center", "parse_math": False}
    for position, (title, image) in enumerate(columns):
        x = MARGIN + position * (column + MARGIN) + (column - crop_width) // 2
        enlarged = image[top:bottom, left:right].repeat(zoom, axis=0).repeat(zoom, axis=1)
        figure.figimage(enlarged, xo=x, yo=TITLE_HEIGHT, origin="upper")
        centre = (x + crop_width / 2) / figure_width
        figure.text(centre, 1 - TITLE_HEIGHT / 2 / figure_height, title, fontsize=TITLE_SIZE, **style)
    figure.text(0.5, TITLE_HEIGHT / 2 / figure_height, footer, fontsize=FOOTER_SIZE, **style)
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


def _text_width(text: str, size: float) -> int:
    """Return the width of a line of text in figure pixels, rounded up."""
    artist = Figure(dpi=DPI).text(0, 0, text, fontsize=size, parse_math=False)
    return int(np.ceil(artist.get_window_extent().width))
