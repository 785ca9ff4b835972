"""Pixels -> the bytes of an image file, refusing what a format cannot hold."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from sr_nas.errors import UserError, listing


class Format(NamedTuple):
    """What a file format can hold."""

    name: str
    channels: tuple[int, ...]
    bits: tuple[int, ...]


_PNG = Format("PNG", (1, 2, 3, 4), (8, 16))
_TIFF = Format("TIFF", (1, 2, 3, 4), (8, 16))
_BMP = Format("BMP", (1, 3), (8,))
_WEBP = Format("WebP", (1, 2, 3, 4), (8,))
_JPEG = Format("JPEG", (1, 3), (8,))

FORMATS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP, ".bmp": _BMP, ".tif": _TIFF, ".tiff": _TIFF}
"""Lower-case suffix -> format."""


def _by_pillow(pixels: np.ndarray, form: Format) -> bytes:
    settings: dict[Format, dict[str, Any]] = {_TIFF: {"compression": "tiff_lzw"}, _WEBP: {"lossless": True, "exact": True}}
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, form.name, **settings.get(form, {}))
    return stream.getvalue()


def _by_opencv(pixels: np.ndarray, suffix: str, quality: int) -> bytes:
    settings = []
    if FORMATS[suffix] is _JPEG:
        # Halving the chroma, OpenCV's default, would throw away a part of what was upscaled.
        chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma]
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., order]), settings)
    if not done:
        raise ValueError("OpenCV gives no reason")
    return data.tobytes()


def encode(pixels: np.ndarray, suffix: str, quality: int) -> bytes:
    """Encode an image in the format of ``suffix``.

    PNG, TIFF and BMP keep every pixel, WebP is lossless, and JPEG keeps its chroma at full resolution. WebP knows no
    grey and holds it as RGB. Grey with alpha stays that in PNG and TIFF of 8 bits, and becomes RGBA elsewhere.

    Args:
        pixels: HxW, or HxWxC with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8 or uint16.
        suffix: one of :data:`FORMATS`, in either case.
        quality: of JPEG, 0..100.

    Raises:
        UserError: an unknown suffix, or a format that cannot hold these pixels.
        ValueError: an array that is no image.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"no image: {pixels.dtype} of shape {pixels.shape}")
    form = FORMATS.get(suffix.lower())
    if form is None:
        raise UserError(f"images are written as {listing(FORMATS)}, not as '{suffix}'.")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    channels, bits = pixels.shape[2], pixels.dtype.itemsize * 8
    if bits not in form.bits:
        raise UserError(f"{form.name} cannot hold {bits} bits per channel; write a PNG.")
    if channels not in form.channels:
        raise UserError(f"{form.name} cannot hold {channels} channels{' (alpha)' * (channels in (2, 4))}; write a PNG.")
    # OpenCV's PNG takes a tenth of the time, but its WebP loses the colour below full transparency, its TIFF does not
    # say that the fourth channel is alpha, and it knows no grey with alpha.
    by_pillow = bits == 8 and (form in (_WEBP, _TIFF) or channels == 2)
    try:
        return _by_pillow(pixels, form) if by_pillow else _by_opencv(pixels, suffix.lower(), quality)
    except (cv2.error, ValueError, OSError) as error:
        raise UserError(f"{form.name} cannot hold {pixels.shape[1]}x{pixels.shape[0]} pixels ({error}).") from error
