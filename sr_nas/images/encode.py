"""Pixels -> the bytes of an image file, refusing what a format cannot hold."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from sr_nas.errors import UserError, listing
from sr_nas.images.decode import fits


class Format(NamedTuple):
    """What a file format can hold; ``side`` is the largest height and width where memory is not the first to end."""

    name: str
    channels: tuple[int, ...]
    bits: tuple[int, ...]
    side: float = math.inf


_PNG = Format("PNG", (1, 2, 3, 4), (8, 16))
_TIFF = Format("TIFF", (1, 2, 3, 4), (8, 16))
_BMP = Format("BMP", (1, 3), (8,))
_WEBP = Format("WebP", (1, 2, 3, 4), (8,), 2**14 - 1)
_JPEG = Format("JPEG", (1, 3), (8,), 65500)  # libjpeg's limit; the format's is 65535

FORMATS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": _WEBP, ".bmp": _BMP, ".tif": _TIFF, ".tiff": _TIFF}
"""Lower-case suffix -> format."""
_ICC_TAG = 34675


def holds_profile(suffix: str, channels: int, bits: int, icc_profile: bytes) -> bool:
    """Tell whether a file of this suffix, channels and bits per channel can hold the colour profile.

    It cannot where the format knows none, or where the profile is damaged or describes another kind of pixels than the
    file will hold: that of a CMYK image, which is read as RGB.
    """
    form = FORMATS.get(suffix.lower())
    becomes_rgb = form is _WEBP or (bits == 16 and channels == 2)
    return form not in (None, _BMP) and fits(icc_profile, 3 if becomes_rgb else channels)


def check_format(suffix: str, height: int, width: int, channels: int, bits: int) -> Format:
    """Return the format of files of a suffix.

    Raises:
        UserError: an unknown suffix, or a format that cannot hold so many pixels, channels, or bits per channel.
    """
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


def _by_pillow(pixels: np.ndarray, form: Format, quality: int, icc_profile: bytes | None) -> bytes:
    # Halving the chroma, the default, would throw away a part of what was upscaled.
    settings: dict[Format, dict[str, Any]] = {
        _TIFF: {"compression": "tiff_lzw"},
        _WEBP: {"lossless": True, "exact": True, "icc_profile": icc_profile},
        _JPEG: {"quality": quality, "subsampling": "4:4:4", "icc_profile": icc_profile},
    }
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, form.name, **settings.get(form, {}))
    return stream.getvalue()


def _by_opencv(pixels: np.ndarray, suffix: str) -> bytes:
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., order]))
    if not done:
        raise ValueError("OpenCV gives no reason")
    return data.tobytes()


def _png_with_profile(data: bytes, icc_profile: bytes) -> bytes:
    """Insert an iCCP chunk behind IHDR, the first chunk, which ends at byte 33 (PNG specification, 11.3.2.3)."""
    content = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc_profile)
    return b"".join([data[:33], struct.pack(">I", len(content) - 4), content, struct.pack(">I", zlib.crc32(content)), data[33:]])


def _tiff_with_profile(data: bytes, icc_profile: bytes) -> bytes:
    """Append the profile, and the directory once more with an entry for it (TIFF 6.0, section 2; ICC.1:2022, B.4)."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack(order + "I", data[4:8])[0]
    end = start + 2 + 12 * struct.unpack(order + "H", data[start : start + 2])[0]
    data += b"\0" * (len(data) % 2)
    entry = struct.pack(order + "HHII", _ICC_TAG, 7, len(icc_profile), len(data))
    entries = sorted(
        [entry, *(data[at : at + 12] for at in range(start + 2, end, 12))],
        key=lambda entry: struct.unpack(order + "H", entry[:2]),
    )
    icc_profile += b"\0" * (len(icc_profile) % 2)
    header = data[:4] + struct.pack(order + "I", len(data) + len(icc_profile))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + data[end : end + 4]
    return b"".join([header, data[8:], icc_profile, directory])


def encode(pixels: np.ndarray, suffix: str, quality: int, icc_profile: bytes | None = None) -> bytes:
    """Encode an image in the format of ``suffix``.

    PNG, TIFF and BMP keep every pixel, WebP is lossless, and JPEG keeps its chroma at full resolution. WebP knows no
    grey and holds it as RGB. Grey with alpha stays that in PNG and TIFF of 8 bits, and becomes RGBA elsewhere.

    Args:
        pixels: HxW, or HxWxC with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8 or uint16.
        suffix: one of :data:`FORMATS`, in either case.
        quality: of JPEG, 0..100.
        icc_profile: colour profile that the file :func:`holds <holds_profile>`.

    Raises:
        UserError: an unknown suffix, or a format that cannot hold these pixels.
        ValueError: an array that is no image, or a profile that the file cannot hold.
    """
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"no image: {pixels.dtype} of shape {pixels.shape}")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    channels, bits = pixels.shape[2], pixels.dtype.itemsize * 8
    form = check_format(suffix, pixels.shape[0], pixels.shape[1], channels, bits)
    if icc_profile is not None and not holds_profile(suffix, channels, bits, icc_profile):
        raise ValueError(f"the colour profile does not fit {channels} channels of {bits} bits in {form.name}")
    # OpenCV's PNG takes a tenth of the time, but its WebP loses the colour below full transparency, its TIFF does not
    # say that the fourth channel is alpha, its JPEG holds no profile, and it knows no grey with alpha.
    by_pillow = bits == 8 and (form in (_WEBP, _TIFF, _JPEG) or channels == 2)
    try:
        data = _by_pillow(pixels, form, quality, icc_profile) if by_pillow else _by_opencv(pixels, suffix.lower())
        if icc_profile is not None and form in (_PNG, _TIFF):
            data = (_png_with_profile if form is _PNG else _tiff_with_profile)(data, icc_profile)
        return data
    except (cv2.error, ValueError, OSError, struct.error) as error:
        raise UserError(f"{form.name} cannot hold {pixels.shape[1]}x{pixels.shape[0]} pixels ({error}).") from error
