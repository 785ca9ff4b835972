"""MATLAB's bicubic ``imresize``, by which the field makes its LR images."""

from __future__ import annotations

import numpy as np

from sr_nas.errors import UserError


def cubic(x: np.ndarray) -> np.ndarray:
    """Cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15); zero outside -2..2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def contributions(length: int, resized: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a line of ``length``, and their weights, that make up each sample of the ``resized`` line.

    Shrinking widens the kernel by the scale (antialiasing). Beyond its ends the line is mirrored, end samples repeated.

    Returns:
        ``(indices, weights)``, both (resized, samples); each row of weights sums to 1.
    """
    scale = resized / length
    widened = min(scale, 1.0)
    support = 4.0 / widened
    # Sample i covers i..i+1, so centres are half a sample in.
    centres = (np.arange(resized) + 0.5) / scale - 0.5
    first = np.floor(centres - support / 2).astype(np.int64)
    indices = first[:, None] + np.arange(int(np.ceil(support)) + 2)
    weights = cubic(widened * (centres[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.any(weights != 0, axis=0)
    period = np.mod(indices[:, used], 2 * length)
    return np.minimum(period, 2 * length - 1 - period), weights[:, used]


def _resize_rows(image: np.ndarray, height: int) -> np.ndarray:
    indices, weights = contributions(image.shape[0], height)
    resized = np.empty((height, *image.shape[1:]), image.dtype)
    # Blocks of rows small enough to stay in the processor's cache.
    block = max(1, 100_000 // image[0].size)
    for start in range(0, height, block):
        rows = slice(start, start + block)
        total = np.zeros(resized[rows].shape)
        # One tap at a time, in MATLAB's order of summation: another order may round a tie at x3 the other way.
        for index, weight in zip(indices[rows].T, weights[rows].T, strict=True):
            total += image[index] * weight.reshape(-1, *[1] * (image.ndim - 1))
        if not np.issubdtype(image.dtype, np.floating):
            total = np.clip(np.floor(total + 0.5), 0, np.iinfo(image.dtype).max)
        resized[rows] = total
    return resized


def imresize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize HxW[xC] as MATLAB's ``imresize(image, [height width], 'bicubic')`` does, its rows first.

    uint8 and uint16 are rounded half up and clipped to their range after *each* of the two passes, as MATLAB does; floating
    point is neither rounded nor clipped. Another dtype is a TypeError, an array or size that is no image a ValueError.
    """
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"imresize takes uint8, uint16 or floating-point pixels, not {image.dtype}")
    if image.ndim not in (2, 3) or min(*image.shape[:2], height, width) < 1:
        raise ValueError(f"imresize cannot make {height}x{width} of an array of shape {image.shape}")
    rows = _resize_rows(image, height)
    # Transposed, so that the second pass gathers whole contiguous rows as well.
    columns = _resize_rows(np.ascontiguousarray(rows.swapaxes(0, 1)), width)
    return np.ascontiguousarray(columns.swapaxes(0, 1))


def modcrop(image: np.ndarray, scale: int) -> np.ndarray:
    """Return HxW[xC] cropped at the bottom and the right to a multiple of ``scale``; a UserError where nothing is left."""
    height, width = image.shape[0] // scale * scale, image.shape[1] // scale * scale
    if not height or not width:
        raise UserError(f"an image of {image.shape[1]}x{image.shape[0]} pixels is too small for scale {scale}.")
    return image[:height, :width]


def downscale(hr: np.ndarray, scale: int) -> np.ndarray:
    """Make the LR image, (H//scale)x(W//scale)[xC], of an HR image: :func:`modcrop`, then :func:`imresize`."""
    hr = modcrop(hr, scale)
    return imresize(hr, hr.shape[0] // scale, hr.shape[1] // scale)


def upscale_bicubic(lr: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge HxW[xC] to (scale H)x(scale W)[xC] by :func:`imresize`, integers rounded after each pass as MATLAB does."""
    return imresize(lr, lr.shape[0] * scale, lr.shape[1] * scale)
