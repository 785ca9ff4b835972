"""Pixel arrays -> encoded image files; what a format cannot hold is refused."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

from sr_nas.errors import UserError, listing
from sr_nas.images.metadata import embedded, png_chunk


class Format(NamedTuple):
    """Limits of a file format: channel counts, bits per channel, and the largest height and width."""

    name: str
    channels: tuple[int, ...]
    bits: tuple[int, ...]
    side: float = math.inf


_PNG = Format("PNG", (1, 2, 3, 4), (8, 16))
_TIFF = Format("TIFF", (1, 2, 3, 4), (8, 16))
_BMP = Format("BMP", (1, 3), (8,))
_WEBP = Format("WebP", (1, 2, 3, 4), (8,), 2**14 - 1)
_JPEG = Format("JPEG", (1, 3), (8,), 65500)  # libjpeg's limit; the format's is 65535

FORMATS = dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), _JPEG)
FORMATS |= {".png": _PNG, ".webp": _WEBP, ".bmp": _BMP, ".tif": _TIFF, ".tiff": _TIFF}
"""Lower-case suffix -> format."""
_SETTINGS: dict[Format, dict[str, Any]] = {
    _PNG: {"compress_level": 1},  # a fifth of the default level's time, for a quarter more bytes
    _TIFF: {"compression": "tiff_lzw"},
    _WEBP: {"lossless": True, "exact": True},  # exact: colours below full transparency are kept
    _JPEG: {"subsampling": "4:4:4"},  # halved chroma, the default, would throw away a part of what was upscaled
}


def holds_profile(suffix: str, channels: int, bits: int, icc_profile: bytes) -> bool:
    """Return whether a file can carry a profile: not BMP, nor a profile that is damaged or of other pixels, such as CMYK."""
    form = FORMATS.get(suffix.lower())
    encoded_as_rgb = channels > 2 or form is _WEBP or (bits == 16 and channels == 2)
    # Length, colour space and signature of the profile (ICC.1:2022, 7.2).
    whole = len(icc_profile) >= 128 and int.from_bytes(icc_profile[:4], "big") == len(icc_profile)
    fits = icc_profile[16:20] == (b"RGB " if encoded_as_rgb else b"GRAY") and icc_profile[36:40] == b"acsp"
    return form not in (None, _BMP) and whole and fits


def check_format(suffix: str, height: int, width: int, channels: int, bits: int) -> Format:
    """Return the format of a suffix; a UserError if it cannot hold so many pixels, channels or bits per channel."""
    form = FORMATS.get(suffix.lower())
    if form is None:
        raise UserError(f"images are written as {listing(FORMATS)}, not as '{suffix}'.")
    if bits not in form.bits:
        raise UserError(f"{form.name} cannot hold {bits} bits per channel, as PNG can.")
    if channels not in form.channels:
        raise UserError(f"{form.name} cannot hold {channels} channels{' (alpha)' * (channels in (2, 4))}, as PNG can.")
    if max(height, width) > form.side:
        raise UserError(f"{form.name} cannot hold {width}x{height} pixels: {form.side} a side are the most.")
    return form


def encode(
    pixels: np.ndarray, suffix: str, quality: int | None = None, icc_profile: bytes | None = None, **photo: bytes
) -> bytes:
    """Encode an image, with chroma at full resolution.

    WebP stores grey as RGB. Grey with alpha becomes RGBA in WebP and at 16 bits.

    Args:
        pixels: HxW, or HxWxC with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8 or uint16.
        suffix: one of :data:`FORMATS`, in either case.
        quality: 0..100, of JPEG (by default 95) and WebP (by default lossless); all else is lossless.
        icc_profile: colour profile of the file.
        photo: ``exif`` and ``xmp``, as :func:`~sr_nas.images.metadata.fitted` gives them for this format; both or none.

    Raises:
        UserError: an unknown suffix, or a format that cannot hold these pixels.
        ValueError: an array that is no image, or a profile that the file cannot hold.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"no image: {pixels.dtype} of shape {pixels.shape}")
    pixels = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1))
    height, width, channels = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    form = check_format(suffix, height, width, channels, bits)
    if icc_profile is not None and not holds_profile(suffix, channels, bits, icc_profile):
        raise ValueError(f"the colour profile does not fit {channels} channels of {bits} bits in {form.name}")
    try:
        if bits == 16:
            data = (_tiff_of_16_bits if form is _TIFF else _png_of_16_bits)(pixels, icc_profile)
        else:
            stream, settings = io.BytesIO(), _SETTINGS.get(form, {})
            if form is _JPEG or (form is _WEBP and quality is not None):
                settings = settings | {"lossless": False, "quality": 95 if quality is None else quality}
            settings = settings | (photo if form is _WEBP else {})
            Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(
                stream, form.name, icc_profile=icc_profile, **settings
            )
            data = stream.getvalue()
        return embedded(data, form.name, **photo) if form is not _WEBP and any(photo.values()) else data
    except (cv2.error, ValueError, OSError, struct.error) as error:
        raise UserError(f"{form.name} cannot hold {width}x{height} pixels ({error}).") from error


def _tiff_of_16_bits(pixels: np.ndarray, icc_profile: bytes | None) -> bytes:
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]  # OpenCV, which reads it again, knows no grey with alpha
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        pixels.squeeze(2) if pixels.shape[2] == 1 else pixels,
        photometric="minisblack" if pixels.shape[2] == 1 else "rgb",
        extrasamples=["unassalpha"] * (pixels.shape[2] - 3),
        compression="zlib",
        iccprofile=icc_profile,
        metadata=None,
    )
    return stream.getvalue()


def _png_of_16_bits(pixels: np.ndarray, icc_profile: bytes | None) -> bytes:
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    success, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]))
    if not success:
        raise ValueError("OpenCV gives no reason")
    data = encoded.tobytes()
    if icc_profile is None:
        return data
    # The iCCP chunk follows IHDR, the first chunk, which ends at byte 33 (PNG specification, 11.3.2.3).
    return data[:33] + png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)) + data[33:]
