"""Places where a network gains most and least over bicubic, and pictures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_nas.metrics import luma, psnr
from sr_nas.report.picture import Box, Image, comparison_figure, window_sums
from sr_nas.report.plots import save

NO_ERROR = 0.01
"""Mean squared errors below this, which is 68 dB, count as this."""


def extreme_gains(sr: Image, baseline: Image, hr: Image, shave: int, side: int) -> dict[str, tuple[float, Box]]:
    """Return ``{"best": (gain, box), "worst": (gain, box)}`` of one image, by the errors of Y in every square.

    The best square is where the baseline's mean squared error exceeds that of ``sr`` most; its gain is the difference. A ratio
    would not tell a square full of detail from one that is half empty. The worst is where ``sr`` has the least PSNR over the
    baseline; its gain is in dB, negative where the baseline is nearer to HR. It is looked for where the baseline errs at least
    as much as in the mean over all squares: in the sky, for example, there is nothing to gain. Of equal squares the first in
    reading order is taken.

    Args:
        sr: the result, uint8 [H, W, 3], RGB; the other two likewise.
        baseline: the result that it is compared with.
        hr: the original.
        shave: pixels at each border that no square reaches into.
        side: of the squares in pixels; less where the shaved image is smaller.
    """
    inner = (slice(shave, hr.shape[0] - shave), slice(shave, hr.shape[1] - shave))
    errors = [squared_error(image, hr)[inner] for image in (baseline, sr)]
    side = min(side, *errors[0].shape)
    before, after = (window_sums(error, side) / side**2 for error in errors)
    removed = before - after
    decibels = 10 * np.log10(before.clip(NO_ERROR) / after.clip(NO_ERROR))
    decibels[before < min(before.mean(), before.max())] = np.inf
    extremes = {}
    for which, gains, position in (("best", removed, removed.argmax()), ("worst", decibels, decibels.argmin())):
        top, left = (int(index) for index in np.unravel_index(position, gains.shape))
        extremes[which] = (float(gains[top, left]), (left + shave, top + shave, left + shave + side, top + shave + side))
    return extremes


def squared_error(image: Image, hr: Image) -> NDArray[np.float64]:
    """Return the squared difference of Y, [H, W]."""
    return (luma(image) - luma(hr)) ** 2


def crop_picture(path: Path, name: str, hr: Image, results: Sequence[tuple[str, Image]], box: Box) -> None:
    """Write the crop of HR and of each result side by side, with the PSNR of the crops.

    Args:
        path: PNG to write.
        name: of the image.
        hr: the original.
        results: (title, image of the size of HR).
        box: the crop.
    """
    left, top, right, bottom = box
    columns = [(f"{name}, HR", hr)]
    for title, image in results:
        score = psnr(image[top:bottom, left:right], hr[top:bottom, left:right], 0)
        columns.append((f"{title}, equal" if math.isinf(score) else f"{title}, {score:.2f} dB", image))
    save(comparison_figure(columns, box), path)
