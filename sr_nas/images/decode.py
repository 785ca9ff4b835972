"""Pillow, without what it does for servers."""

from __future__ import annotations

import contextlib
import io
import random
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from sr_nas.errors import UserError, listing

_limit = threading.Lock()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lift Pillow's limit of pixels and silence its warnings, in one thread at a time.

    The limit guards servers against uploads, but here the files are the user's own; it warns of EXIF that it cannot read.
    """
    with _limit, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


# MERGED sr_nas.images.decode: Whether a JPEG holds all of its picture: the format has no checksum, and decoders
# fill up what is missing in silence.
#
# A decoder stops reading when its last block is full. In a sound file, bytes that are put in behind the coded
# ones are
# therefore never looked at, while a file that has lost some takes its missing blocks from them; and in a sound
# file the last
# coded bytes matter, while one in which damage was read as more blocks than there are ends before them.


_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Starts of frame in other than Huffman codes, lossless or hierarchical (ITU-T T.81, table B.1)."""
_RESTARTS, _END, _SCAN = range(0xD0, 0xD8), 0xD9, 0xDA
_FILL = bytes(random.Random(0).choices(range(255), k=64))
"""Arbitrary, without 0xFF, with which markers begin; enough that it is not read as nothing but what was there before."""
_LAST = 32
"""So many coded bytes at the end change a picture if others stand in their place: they hold several blocks of it."""

_whole: set[int] = set()
"""Hashes of the files found whole, so that a training that decodes them again and again looks at each once."""


def is_whole(data: bytes, image: Image.Image) -> bool:
    """Tell whether a JPEG seems to hold its whole picture, at the price of decoding it twice more.

    It does not where a scan, or what stands between two restart markers, is read as fewer blocks than it has; and, in files
    of one scan without restart markers, as more. Damage that leaves the number of blocks as it is, such as most changed
    bits, is not found, and arithmetic coding is not looked at.

    Args:
        data: the file, which Pillow decodes without an error.
        image: what it decodes to.
    """
    if hash(data) not in _whole:
        if not (_takes_no_more(data, image) and _takes_all(data, image)):
            return False
        _whole.add(hash(data))
    return True


def _takes_no_more(data: bytes, image: Image.Image) -> bool:
    parts, done = [], 0
    for _, end in _coded_pieces(data):
        parts += [data[done:end], _FILL]
        done = end
    return not done or _decodes_to(image, b"".join([*parts, data[done:]]))


def _takes_all(data: bytes, image: Image.Image) -> bool:
    pieces = _coded_pieces(data)
    if len(pieces) != 1 or pieces[0][1] - pieces[0][0] < 8 * _LAST:
        return True
    pixels, end = np.asarray(image), pieces[0][1]
    # The tables of a picture of one colour may know no other.
    return bool((pixels == pixels[:1, :1]).all()) or not _decodes_to(image, data[: end - _LAST] + _FILL + data[end:])


def _decodes_to(image: Image.Image, data: bytes) -> bool:
    with undisturbed():
        other = JpegImageFile(io.BytesIO(data))
    return np.array_equal(np.asarray(image), np.asarray(other))


def _coded_pieces(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of the pieces of Huffman codes of the first image in a file; none if it has other codes."""
    pieces: list[tuple[int, int]] = []
    start, at = 0, 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = marker[1][0], marker.end()
        if start:
            pieces.append((start, marker.start()))
        if code in _OTHER_FRAMES:
            return []
        if code == _END:
            break
        if code not in _RESTARTS:
            at += int.from_bytes(data[at : at + 2], "big")
        start = at if code in _RESTARTS or code == _SCAN else 0
    return pieces


# MERGED sr_nas.images.decode: What an image file says beside its pixels: the colour profile, which is kept,
# and the rest, which is named when dropped.


ORIENTATION = 274
_XMP = 700
_DESCRIPTIVE = {270, 271, 272, 306, 315, 33432, 34665, 34853}
"""Tags that describe: title, maker, model, time, artist, copyright (TIFF 6.0), and the directories of EXIF and GPS. The others
of a TIFF say how its pixels are stored."""
_SRGB_GAMMA = 1 / 2.2
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White, red, green and blue (PNG specification, 11.3.2.5)."""
_SRGB_CODE_POINTS = b"\x01\x0d"
"""BT.709 primaries and the transfer function of sRGB (PNG specification, 11.3.2.6; ITU-T H.273)."""
_SCREENS = (0, 1, 72, 96)
"""Resolutions that stand in files whose writers knew none."""


class Metadata(NamedTuple):
    """What stands in a file beside its pixels.

    Attributes:
        icc_profile: the profile that says what colours the numbers of the file mean, as it is stored.
        others: names of what else there is, such as ``"EXIF"``.
    """

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()


def metadata_of(image: Image.Image, data: bytes) -> Metadata:
    """Return the metadata of an image that Pillow has loaded from ``data``. The orientation is not among it: it is applied."""
    info, profile = image.info, image.info.get("icc_profile") or None
    tags = set(image.getexif())
    found = {
        # No tags: what cannot be read.
        "EXIF": bool(tags & _DESCRIPTIVE)
        if image.format == "TIFF"
        else bool(tags - {ORIENTATION}) or ("exif" in info and not tags),
        "XMP": "xmp" in info or "XML:com.adobe.xmp" in info or _XMP in tags,
        "Photoshop data": "photoshop" in info,
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Without a profile, the PNG's gamma alone says how light its numbers are.
        "gamma": profile is None and "srgb" not in info and abs(info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) > 0.01,
        "chromaticities": profile is None and "srgb" not in info and _differ(info.get("chromaticity", _SRGB_CHROMATICITIES)),
        "code points of a colour space": image.format == "PNG" and _code_points(data) != _SRGB_CODE_POINTS,
        "resolution": round(max(info.get("dpi", (0,)))) not in _SCREENS,
    }
    return Metadata(profile, tuple(name for name, present in found.items() if present))


def _differ(chromaticities: tuple[float, ...]) -> bool:
    return any(abs(one - other) > 0.001 for one, other in zip(chromaticities, _SRGB_CHROMATICITIES, strict=True))


def _code_points(png: bytes) -> bytes:
    """Return primaries and transfer function of a chunk cICP, which Pillow leaves out and no profile overrules."""
    at = png.find(b"cICP", 0, png.find(b"IDAT"))
    return _SRGB_CODE_POINTS if at < 0 else png[at + 4 : at + 6]


def fits(icc_profile: bytes, channels: int) -> bool:
    """Tell whether a profile is whole and describes pixels of this many channels, grey for 1 and 2, RGB for 3 and 4.

    A profile states its length first, its colour space from byte 16 and a signature from byte 36 (ICC.1:2022, 7.2).
    """
    space = b"GRAY" if channels < 3 else b"RGB "
    whole = len(icc_profile) >= 128 and int.from_bytes(icc_profile[:4], "big") == len(icc_profile)
    return whole and icc_profile[36:40] == b"acsp" and icc_profile[16:20] == space


# MERGED sr_nas.images.decode: The bytes of an image file -> its pixels as they are stored, or an error: never
# half an image.


READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
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
        image = Image.open(io.BytesIO(data), formats=READABLE)
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
    checksums (PNG, all of it), where decoding fails, and in a JPEG as :func:`~sr_nas.images.decode.is_whole` says.

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
        raise UserError(f"it is damaged, or of a kind that is not read; {listing(READABLE)} of 8 or 16 bits are.") from error
    except DAMAGED as error:
        raise UserError(f"it is damaged, cut off or too large ({str(error) or type(error).__name__}).") from error
    return np.ascontiguousarray(_upright(pixels.reshape(*pixels.shape[:2], -1), orientation)), metadata
