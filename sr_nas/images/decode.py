"""Encoded image files -> pixel arrays: 8 and 16 bits, grey, RGB and RGBA; damaged data are an error, never half an image."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from sr_nas.errors import UserError, listing

READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are decoded, by Pillow's names."""
DECODE_ERRORS = (
    *(OSError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError, ValueError),
    *(cv2.error, struct.error, zlib.error),
)
"""What Pillow and OpenCV raise on damaged, truncated or foreign files."""
ORIENTATION = 274
"""EXIF tag of the orientation, 1 to 8 (Exif 2.32, 4.6.4 A)."""

_MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA"}
_MODES |= {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Pillow mode of a file of up to 8 bits -> mode of the returned pixels."""
_OPENCV_16_BIT_MODES = ("I", "I;16", "I;16B", "L", "LA", "RGB", "RGBA")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF 6.0
_DESCRIPTIVE_TAGS = {270, 271, 272, 306, 315, 33432, 34665, 34853}
"""TIFF tags of title, camera, time, artist, copyright, EXIF and GPS."""
_HARMLESS = re.compile(r"extraneous bytes before marker 0x(?!d[0-79])")
"""libjpeg's warning of stray bytes between segments; before a restart or end marker they are coded pixels left over."""

_pillow_lock = threading.Lock()


class Metadata(NamedTuple):
    """Contents of an image file besides its pixels.

    Attributes:
        icc_profile: the colour profile as stored in the file.
        others: names of other metadata, which are not written to outputs, such as ``"EXIF"``.
    """

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()


@contextlib.contextmanager
def unlimited_pillow() -> Iterator[None]:
    """Lift Pillow's pixel limit, which guards servers against uploads, and mute its warnings; one thread at a time.

    Pillow has the limit as a global variable alone, and restoring it leaves the importing program as it was.
    """
    with _pillow_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decode(data: bytes) -> np.ndarray:
    """Return the pixels alone, see :func:`decode_with_metadata`."""
    return decode_with_metadata(data)[0]


def decode_with_metadata(data: bytes) -> tuple[np.ndarray, Metadata]:
    """Return the upright pixels of an encoded image, and its metadata.

    What counts as damage: in a PNG any wrong checksum; in a JPEG any warning of libjpeg about its coded data (bytes missing,
    left over or undecodable; a changed byte that decodes to as many blocks is not noticed); elsewhere what fails to decode.

    Returns:
        HxWxC, uint8 or uint16 over the full range; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA, not premultiplied).
        The EXIF orientation is applied. Palettes and colour keys become RGB, or RGBA where something is transparent;
        CMYK becomes RGB; fewer than 8 bits are scaled to 0..255. The colour profile is not applied.

    Raises:
        UserError: empty, damaged, truncated, several images in one file, floating point, or an unknown format.
    """
    if not data:
        raise UserError("the file is empty.")
    try:
        with unlimited_pillow():
            image = _open(data)
            pixels = _pixels(image, data)
            # Pillow and OpenCV turn a TIFF themselves.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(ORIENTATION, 1)
            metadata = _metadata(image, data)
    except UnidentifiedImageError as error:
        raise UserError(f"it is damaged, or of a kind that is not read; {listing(READABLE)} of 8 or 16 bits are.") from error
    except DECODE_ERRORS as error:
        raise UserError(f"it is damaged, cut off or too large ({str(error) or type(error).__name__}).") from error
    return np.ascontiguousarray(_upright(pixels.reshape(*pixels.shape[:2], -1), orientation)), metadata


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=READABLE)
    # A camera's MPO is a JPEG followed by previews.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UserError(f"it holds {frames} images; save the one that is meant as a file of its own.")
    if image.format == "PNG":
        PngImageFile(io.BytesIO(data)).verify()  # decoding alone checks neither pixel checksums nor the end of the file
    return image


def _pixels(image: Image.Image, data: bytes) -> np.ndarray:
    if image.format in ("JPEG", "MPO") and (pixels := _jpeg_pixels(image, data)) is not None:
        return pixels
    image.load()
    if (image.format == "PNG" and data[24] == 16) or (image.format == "TIFF" and _tiff_tag(image, _BITS_PER_SAMPLE) == {16}):
        return _pixels_of_16_bits(image, data)  # Pillow would cut RGB to 8 bits
    mode = _MODES.get(image.mode)
    if mode is None or (image.format == "TIFF" and max(_tiff_tag(image, _BITS_PER_SAMPLE)) > 8):
        kind = {"F": "floating point", "I": "32-bit integers"}.get(image.mode, f"of an unusual kind ({image.mode})")
        raise UserError(f"its pixels are {kind}; convert it to a PNG or TIFF of 8 or 16 bits per channel.")
    if "transparency" in image.info:
        mode = "LA" if mode == "L" else "RGBA"
    return np.array(image.convert(mode))


def _jpeg_pixels(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Decode a grey or RGB JPEG; ``None`` leaves it to Pillow, which fills missing parts of a picture without a word."""
    try:
        pixels = simplejpeg.decode_jpeg(data, {"L": "GRAY"}.get(image.mode, image.mode), strict=True)
    except ValueError as error:
        text = str(error)
        if re.search(r"corrupt|premature|truncated", text, re.IGNORECASE) and not _HARMLESS.search(text):
            raise UserError(
                f"it is damaged or cut off: a part of its picture is missing ({text}). Fetch it anew, or save it anew where it "
                "looks right in a viewer."
            ) from error
        return None
    return None if image.mode == "CMYK" else pixels


def _tiff_tag(image: Image.Image, tag: int) -> set[int]:
    value = image.tag_v2.get(tag, 1)  # type: ignore[attr-defined]
    return set(value) if isinstance(value, tuple) else {value}


def _pixels_of_16_bits(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode by OpenCV what Pillow has found complete."""
    supported = image.mode in _OPENCV_16_BIT_MODES
    if image.format == "TIFF":  # OpenCV ignores these tags
        supported &= _tiff_tag(image, _SAMPLE_FORMAT) == {1} == _tiff_tag(image, _PLANES)
        supported &= _tiff_tag(image, _PHOTOMETRIC) <= {1, 2}
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if supported else None
    if pixels is None or pixels.dtype != np.uint16:
        raise UserError(f"this kind of 16-bit {image.format} is not read; convert it to a PNG.")
    if pixels.ndim == 2:
        key = image.info.get("transparency")
        return pixels if key is None else np.dstack([pixels, np.where(pixels == key, 0, 65535).astype(np.uint16)])
    pixels = np.dstack([pixels[..., 2::-1], pixels[..., 3:]])  # BGR(A) -> RGB(A)
    # Colour type 4 of a PNG, grey with alpha, is RGBA after OpenCV.
    return pixels[..., 2:] if image.format == "PNG" and data[25] == 4 else pixels


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, of OpenCV's 16-bit arrays too, which ``ImageOps.exif_transpose`` does not take."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _metadata(image: Image.Image, data: bytes) -> Metadata:
    info, tags = image.info, set(image.getexif())
    # In a TIFF, other tags describe the pixel layout. Elsewhere EXIF without any tag is EXIF that cannot be parsed.
    exif = tags & _DESCRIPTIVE_TAGS if image.format == "TIFF" else tags - {ORIENTATION} or ("exif" in info and not tags)
    present = {
        "EXIF": bool(exif),
        "XMP": "xmp" in info or "XML:com.adobe.xmp" in info,
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Both say what the numbers of a PNG mean: a gamma that is not sRGB's 1 / 2.2, and the code points of HDR video.
        "gamma": "icc_profile" not in info and "srgb" not in info and abs(info.get("gamma", 0.4545) - 0.4545) > 0.01,
        "code points of a colour space": image.format == "PNG" and b"cICP" in data[: data.find(b"IDAT")],
    }
    return Metadata(info.get("icc_profile") or None, tuple(name for name, is_present in present.items() if is_present))
