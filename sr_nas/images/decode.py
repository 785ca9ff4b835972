"""The bytes of an image file -> its pixels as they are stored, or an error: never half an image."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from sr_nas.errors import UserError, listing
from sr_nas.images.jpeg import is_whole
from sr_nas.images.metadata import ORIENTATION, Metadata, metadata_of
from sr_nas.images.pillow import undisturbed

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""What is decoded, in Pillow's names."""

_MODES = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
"""Pillow's mode of a file of up to 8 bits -> the mode its pixels are returned in."""
_MODES_OF_16_BITS = ("I", "I;16", "I;16B", "L", "LA", "RGB", "RGBA")
"""Pillow's modes of the files of 16 bits that OpenCV decodes as they are."""
DAMAGED = (
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
    SyntaxError,
    TypeError,
    ValueError,
    cv2.error,
    struct.error,
    zlib.error,
)
"""What Pillow and OpenCV raise over files that are damaged, cut off or of another kind."""

PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The last chunk of every PNG."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
"""Tags of TIFF 6.0."""


def _load(data: bytes) -> Image.Image:
    with undisturbed():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # The MPO of a camera is a JPEG with previews after it.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(f"it holds {frames} images; save the one that is meant as a file of its own.")
    if image.format == "PNG":
        # Decoding looks neither at the checksums of the pixels nor for the end of the file.
        PngImageFile(io.BytesIO(data)).verify()
        if data.rfind(PNG_END) < 0:
            raise UserError("it is cut off: the end of the PNG is missing.")
    # Only a TIFF is held against the limit again: the others may be decoded side by side.
    with undisturbed() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()
    if image.format in ("JPEG", "MPO") and not is_whole(data, image):
        raise UserError("it is damaged or cut off: a part of its picture is missing.")
    return image


def _tiff_tag(image: Image.Image, tag: int) -> set[int]:
    value = image.tag_v2.get(tag, 1)  # type: ignore[attr-defined]
    return set(value) if isinstance(value, tuple) else {value}


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    # Pillow's mode does not tell: it opens 16-bit RGB as 8-bit RGB.
    if image.format == "PNG":
        return data[24] == 16  # the bit depth of IHDR, the first chunk of every PNG
    return image.format == "TIFF" and _tiff_tag(image, _BITS_PER_SAMPLE) == {16}


def _pixels_of_8_bits(image: Image.Image) -> np.ndarray:
    mode = _MODES.get(image.mode)
    if mode is None or (image.format == "TIFF" and max(_tiff_tag(image, _BITS_PER_SAMPLE)) > 8):
        kind = {"F": "floating point", "I": "32-bit integers"}.get(image.mode, f"of an unusual kind ({image.mode})")
        raise UserError(f"its pixels are {kind}; convert it to a PNG or TIFF of 8 or 16 bits per channel.")
    if "transparency" in image.info:
        mode = {"L": "LA"}.get(mode, "RGBA")
    return np.array(image.convert(mode))


def _pixels_of_16_bits(image: Image.Image, data: bytes) -> np.ndarray:
    usual = image.mode in _MODES_OF_16_BITS
    if image.format == "TIFF":  # OpenCV takes no notice of these tags
        usual &= _tiff_tag(image, _SAMPLE_FORMAT) == {1} == _tiff_tag(image, _PLANES) and _tiff_tag(image, _PHOTOMETRIC) <= {1, 2}
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if usual else None
    if pixels is None or pixels.dtype != np.uint16:
        raise UserError(f"this kind of 16-bit {image.format} is not read; convert it to a PNG.")
    if pixels.ndim == 2:
        key = image.info.get("transparency")
        return pixels if key is None else np.dstack([pixels, np.where(pixels == key, 0, 65535).astype(np.uint16)])
    pixels = np.dstack([pixels[..., 2::-1], pixels[..., 3:]])
    grey_with_alpha = image.format == "PNG" and data[25] == 4  # the colour type of IHDR; OpenCV makes RGBA of it
    return pixels[..., 2:] if grey_with_alpha else pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo one of the eight orientations of the EXIF tag 274 (Exif 2.32, 4.6.4 A)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def decode(data: bytes) -> np.ndarray:
    """Return the pixels of an encoded image, the right way up: the first of what :func:`decode_with_metadata` returns."""
    return decode_with_metadata(data)[0]


def decode_with_metadata(data: bytes) -> tuple[np.ndarray, Metadata]:
    """Return the pixels of an encoded image, the right way up, and what the file says beside them.

    Pillow decodes whatever has up to 8 bits per channel; unlike OpenCV it raises where an image is cut off. It cuts 16
    bits to 8, so these are decoded by OpenCV once Pillow has found them complete. Damage is found where the format has
    checksums (PNG, all of it), where decoding fails, and in a JPEG as :func:`~sr_nas.images.jpeg.is_whole` says.

    Returns:
        HxWxC, uint8 or uint16 over their full range; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA; alpha not
        multiplied in). The EXIF orientation is applied. Palettes and colour keys are expanded to RGB or, where
        something is transparent, RGBA; fewer than 8 bits are spread over 0..255; CMYK becomes RGB. A colour profile is
        not applied: the pixels are as stored.

    Raises:
        UserError: empty, damaged, cut off, several images in one, floating point, or another format.
    """
    if not data:
        raise UserError("the file is empty.")
    try:
        image = _load(data)
        pixels = _pixels_of_16_bits(image, data) if _has_16_bits(image, data) else _pixels_of_8_bits(image)
        # Both decoders turn a TIFF by themselves.
        with undisturbed():
            orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
            metadata = metadata_of(image, data)
    except UnidentifiedImageError as error:
        raise UserError(f"it is damaged, or of a kind that is not read; {listing(FORMATS)} of 8 or 16 bits are.") from error
    except DAMAGED as error:
        raise UserError(f"it is damaged, cut off or too large ({str(error) or type(error).__name__}).") from error
    return np.ascontiguousarray(_upright(pixels.reshape(*pixels.shape[:2], -1), orientation)), metadata
