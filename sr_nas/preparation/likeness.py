"""How much one image looks like another, or like a part of it.

An image is described by a small grey thumbnail without its mean and contrast; the likeness of two is the correlation of
their thumbnails, 1 for the same picture. A sub-image is looked for among windows of the other image: first among a fixed
set of them, coarsely, then by moving the sides of the best one, finely.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Window = tuple[int, int, int, int]
"""Top, left, height, width."""

SKETCH = 256
"""Longer side of what is kept of an image, in pixels."""
COARSE, FINE = 12, 32
"""Side of the thumbnails that are compared first and last."""
FLAT = 2.0
"""Grey levels of standard deviation below which a thumbnail shows nothing."""
SHRINKS = (1, 0.93, 0.86, 0.8, 0.74, 0.69, 0.64, 0.59, 0.54, 0.5)
"""Sides of the windows; height and width differ by one step at most."""
SMALLEST = 0.45
"""Share of a side that a window may shrink to when it is moved."""


def sketch(image: np.ndarray) -> Grey:
    """Return what is kept of an image: grey, its longer side :data:`SKETCH` pixels, shrunk by averaging.

    Args:
        image: uint8 [H, W, 3].
    """
    grey = image.mean(axis=2, dtype=np.float32)
    height, width = grey.shape
    factor = SKETCH / max(height, width)
    shape = max(FINE, round(width * factor)), max(FINE, round(height * factor))
    return np.rint(cv2.resize(grey, shape, interpolation=cv2.INTER_AREA)).astype(np.uint8)


def thumbnail(grey: np.ndarray, side: int) -> np.ndarray:
    """Return float32 [side * side] of mean 0 and norm 1; zeros of an image that is flat."""
    return _normalised(_shrunk(grey.astype(np.float32), side)[None])[0]


def _shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).reshape(-1)


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > FLAT * rows.shape[1] ** 0.5, rows / np.maximum(norms, 1e-9), 0.0)


def window_thumbnails(grey: Grey) -> tuple[list[Window], np.ndarray]:
    """Return windows all over a sketch, and their coarse thumbnails, float32 [windows, COARSE * COARSE]."""
    height, width = grey.shape
    boxes = _windows(height // 3, width // 3)
    small = cv2.resize(grey, (width // 3, height // 3), interpolation=cv2.INTER_AREA).astype(np.float32)
    rows = np.stack([_shrunk(small[top : top + h, left : left + w], COARSE) for top, left, h, w in boxes])
    return [(top * 3, left * 3, h * 3, w * 3) for top, left, h, w in boxes], _normalised(rows)


def best_likeness(fine: np.ndarray, grey: Grey, window: Window) -> float:
    """Return the highest likeness that moving the sides of a window reaches.

    Args:
        fine: the fine thumbnail of the image that is looked for.
        grey: sketch of the image it is looked for in.
        window: where to begin.
    """
    best, step = _likeness(fine, grey, window), max(grey.shape) // 24
    while step:
        tried = [(_likeness(fine, grey, moved), moved) for moved in _moved(window, step) if _fits(moved, grey)]
        value, moved = max(tried, default=(best, window))
        if value > best:
            best, window = value, moved
        else:
            step //= 2
    return best


def _likeness(fine: np.ndarray, grey: Grey, window: Window) -> float:
    top, left, height, width = window
    return float(thumbnail(grey[top : top + height, left : left + width], FINE) @ fine)


def _moved(window: Window, step: int) -> list[Window]:
    top, left, h, w = window
    shifts = [(top + d, left, h, w) for d in (-step, step)] + [(top, left + d, h, w) for d in (-step, step)]
    far_sides = [(top, left, h + d, w) for d in (-step, step)] + [(top, left, h, w + d) for d in (-step, step)]
    near_sides = [(top + d, left, h - d, w) for d in (-step, step)] + [(top, left + d, h, w - d) for d in (-step, step)]
    return shifts + far_sides + near_sides


def _fits(window: Window, grey: Grey) -> bool:
    top, left, h, w = window
    height, width = grey.shape
    inside = top >= 0 and left >= 0 and top + h <= height and left + w <= width
    return inside and h >= SMALLEST * height and w >= SMALLEST * width


@cache
def _windows(height: int, width: int) -> list[Window]:
    boxes = set()
    for number, tall in enumerate(SHRINKS):
        for wide in SHRINKS[max(0, number - 1) : number + 2]:
            h, w = round(height * tall), round(width * wide)
            for top in np.linspace(0, height - h, 1 + round((height - h) / h * 10)):
                for left in np.linspace(0, width - w, 1 + round((width - w) / w * 10)):
                    boxes.add((round(float(top)), round(float(left)), h, w))
    return sorted(boxes)
