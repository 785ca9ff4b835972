"""Image files: decoding, reading and writing them; pixel arrays <-> tensors.

Damaged files are an error, never half an image.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import math
import os
import re
import stat
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image, WebPImagePlugin  # noqa: F401 (Pillow's preinit leaves WebP out)
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from tifffile import TiffPage
from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.images.encode import FORMATS, encode
from sr_nas.images.metadata import OF_TIFF, rewritten
from sr_nas.images.tiff import main_image, muted_stderr, tiff_pixels
from sr_nas.runs.device import available_memory
from sr_nas.runs.files import replacing

NO_PERMISSION = os.strerror(errno.EACCES)
"""What the system says of a file or folder that this user may not read."""
_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are decoded, by Pillow's names."""
_ORIENTATION = 274
"""EXIF tag of the orientation, 1 to 8 (Exif 2.32, 4.6.4 A)."""

_MODES = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Pillow mode of a file of up to 8 bits -> mode of the returned pixels."""
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and line of the passes of an interlaced PNG, and their steps (PNG specification, 8.2)."""
_DEFLATE = 1032  # bytes of one, at most
_PLUGINS = {
    "AVIF": (b"avif avis", "PIL.AvifImagePlugin", "pip install -U 'pillow>=11.3'"),
    "HEIF": (b"heic heix heim heis hevc hevx mif1 msf1", "pillow_heif", "pip install 'sr_nas[heic]'"),
}
"""Format that is read where a module is installed -> its brands (ISO 14496-12, 4.3), the module, and what installs it."""
CONVERTED = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}
"""Suffix of images that are read but not written -> format."""
IMAGE_SUFFIXES = (*FORMATS, *(suffix for suffix, form in CONVERTED.items() if find_spec(_PLUGINS[form][1])))
"""Suffixes of the files that are read, in lower case; upper case is accepted too."""

for _logger in ("PIL", "tifffile"):  # what they have to say about a damaged file, an error says
    logging.getLogger(_logger).addHandler(logging.NullHandler())
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
_pillow_lock = threading.Lock()


class Metadata(NamedTuple):
    """Contents of an image file besides its pixels: as they are stored, and names of all but the profile, such as ``"EXIF"``."""

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()
    exif: bytes = b""
    xmp: bytes = b""


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Lift Pillow's pixel limit, a global variable that guards servers, and mute warnings; one thread at a time."""
    with _pillow_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decode(data: bytes) -> np.ndarray:
    """Return the pixels of :func:`decode_with_metadata` alone."""
    return decode_with_metadata(data)[0]


def decode_with_metadata(data: bytes) -> tuple[np.ndarray, Metadata]:
    """Return the pixels of an encoded image, its EXIF orientation applied, and its metadata.

    Damage is, in a PNG, any wrong checksum; in a JPEG, any warning of libjpeg about its coded data but of a filling behind them;
    elsewhere, what fails to decode.

    Returns:
        HxWxC, uint8 or uint16 over the full range; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA, not premultiplied).
        Palettes and colour keys become RGB, or RGBA where something is transparent; CMYK becomes RGB; fewer than 8 bits are
        scaled to 0..255; premultiplied alpha is divided out, an extra sample of a TIFF that has no stated meaning dropped. The
        colour profile is not applied.

    Raises:
        UserError: empty, damaged, truncated, more pixels than the file or the memory can hold, several images in one file,
            floating point, or an unknown format.
    """
    if not data:
        raise UserError("the file is empty.")
    try:
        with _quiet_pillow():
            pixels, orientation, metadata = _decoded(data)
    except UserError:
        raise
    except Exception as error:  # decoders raise whatever their code stumbles over in damaged data, of every type
        problem = str(error) or type(error).__name__
        raise UserError(f"it is damaged, cut off, too large or of a kind that is not read ({problem}).") from error
    return np.ascontiguousarray(_upright(pixels, orientation)), metadata


def _decoded(data: bytes) -> tuple[np.ndarray, int, Metadata]:
    """Return the pixels as stored, the orientation that they lack, and the metadata."""
    stream = io.BytesIO(data)
    if data[:4] not in _TIFF_MAGIC:
        image = _opened(stream)
        return _pixels(image, data), _exif(image).get(_ORIENTATION, 1), _metadata(image, data)
    number, page = _tiff_image(stream)
    tags = set(page.tags.keys())
    others = ("EXIF",) * bool(tags & OF_TIFF) + ("XMP",) * (700 in tags) + ("IPTC",) * (33723 in tags)
    pixels, orientation = tiff_pixels(number, page, data, _converted)
    if pixels.ndim != 3 or sorted(pixels.shape[:2]) != sorted((page.imagelength, page.imagewidth)):
        raise UserError("it is damaged: what it states about the layout of its pixels is not so.")
    exif = rewritten(data, {}, page.offset, OF_TIFF) if tags & OF_TIFF else b""
    return pixels, orientation, Metadata(page.iccprofile, others, exif, _packet(page.tags.valueof(700)))


def _tiff_image(stream: BinaryIO) -> tuple[int, TiffPage]:
    """Return the image of a TIFF and its number, where the file and the memory hold it."""
    number, page = main_image(stream)
    samples, bits = math.prod(page.shaped), page.bitspersample
    decoded = max(samples, math.prod(page.chunks)) * max(bits // 8, 1)
    packed = {1: 1, 8: _DEFLATE, 32946: _DEFLATE}.get(page.compression, math.inf)
    _check_size(stream, page.imagewidth, page.imagelength, decoded, samples * bits / 8 / packed)
    return number, page


def _opened(stream: BinaryIO) -> ImageFile:
    """Open a file that is no TIFF, where the file and the memory hold its pixels."""
    head = stream.read(30)
    if head[12:16] == b"VP8X":  # a WebP's canvas, which is allocated when it is opened
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        _check_size(stream, width, height, 4 * width * height, 0)
    Image.preinit()
    for form, (brands, module, install) in _PLUGINS.items():
        if head[4:8] == b"ftyp" and head[8:12] in brands.split():
            try:
                getattr(importlib.import_module(module), "register_heif_opener", bool)()
            except ImportError as error:
                raise UserError(f"it is {form}, which is read after: {install}") from error
    openers = (Image.OPEN.get(form, (None, None)) for form in (*_READABLE, *_PLUGINS))
    plugin = next((plugin for plugin, accept in openers if accept and accept(head) is True), None)
    if plugin is None:
        raise UserError(f"it is damaged, or of a kind that is not read; {listing(_READABLE)} of 8 or 16 bits are.")
    stream.seek(0)
    image: Any = plugin(stream, "")
    width, height = image.size
    settings = [tile[3] for tile in image.tile]
    least = width * height / {"PNG": 8 * _DEFLATE, "JPEG": 512, "MPO": 512}.get(image.format, math.inf)  # a bit a pixel or block
    if image.format == "BMP" and image.tile[0][0] == "raw":
        least = settings[0][1] * height - 3  # bytes of a line; the last one may lack what fills it
    channels = 4 if image.mode == "P" or image.format == "WEBP" else len(image.getbands())
    _check_size(stream, width, height, width * height * channels * (2 if ";16" in str(settings) else 1), least)
    return image


def _check_size(stream: BinaryIO, width: int, height: int, decoded: int, least: float) -> None:
    """Raise where the memory does not hold an array of so many bytes, or the file has less than these pixels have at least."""
    place, size = stream.tell(), stream.seek(0, os.SEEK_END)
    stream.seek(place)
    if not width * height or least > size:
        raise UserError(f"it is damaged or cut off: it states {width}x{height} pixels, which {size} bytes cannot hold.")
    _check_memory(4 * decoded, f"its {width}x{height} pixels take")  # the decoder's copies and ours


def _check_memory(needed: int, what: str) -> None:
    if needed > 2**26 and needed > (free := available_memory(torch.device("cpu"))):
        raise UserError(f"{what} {needed / 2**30:,.1f} GiB of memory to read, and {free / 2**30:,.1f} GiB are free.")


def _pixels(image: ImageFile, data: bytes) -> np.ndarray:
    # A camera's MPO is a JPEG followed by previews.
    if image.format in ("JPEG", "MPO") and (pixels := _jpeg_pixels(image, data)) is not None:
        return pixels
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise UserError(f"it holds {frames} images; save the one that is meant as a file of its own.")
    if image.format == "BMP" and image.mode == "RGB" and data[30] == 3 and data[14] >= 56 and any(data[66:70]):
        raise UserError("this kind of transparency is not read in a BMP; convert it to a PNG.")  # masks of 16 bits with alpha
    if image.format != "PNG":
        return _converted(image)
    PngImageFile(io.BytesIO(data)).verify()  # decoding alone checks neither pixel checksums nor the end of the file
    depth, key = data[24], None if image.mode == "P" else image.info.pop("transparency", None)
    colours = next((len(content) // 3 for kind, content in _chunks(data) if kind == b"PLTE"), 0)
    if image.mode == "P" and not colours:
        raise UserError("it is damaged: its palette (PLTE) is missing, which its pixels are numbers of.")
    pixels = _png_of_16_bits(image, data) if depth == 16 else _converted(image)  # Pillow would cut RGB to 8 bits
    if image.mode == "P" and (most := int(np.asarray(image).max())) >= colours:
        raise UserError(f"it is damaged: a pixel has number {most} of a palette of {colours} colours.")
    if depth < 16 and (data[28] or image.mode == "P" or not pixels[-1].any()):
        _check_lines(data, *image.size)
    if key is None or pixels.shape[2] in (2, 4):
        return pixels
    # The key is in units of the file, and its upper bits do not count (PNG specification, 11.3.1.1). Pillow's has lost them.
    most, content = np.iinfo(pixels.dtype).max, next(content for kind, content in _chunks(data) if kind == b"tRNS")
    key = (np.frombuffer(content, ">u2", pixels.shape[2]) & 2**depth - 1) * (most // (2**depth - 1))
    return np.dstack([pixels, np.where((pixels == key).all(axis=2), 0, most).astype(pixels.dtype)])


def _converted(image: ImageFile) -> np.ndarray:
    """Decode up to 8 bits to HxWxC."""
    image.load()
    mode = "RGBA" if image.mode == "P" and "transparency" in image.info else _MODES[image.mode]
    return np.atleast_3d(np.array(image if image.mode == mode else image.convert(mode)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk of a PNG."""
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : end - 4]
        at = end


def _check_lines(data: bytes, width: int, height: int) -> None:
    """Raise where the data of a PNG end before its last line, which Pillow leaves at zero without a word."""
    bits = data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in (_ADAM7 if data[28] else ((0, 0, 1, 1),))]
    missing, inflater = sum(lines * (1 + -(-bits * size // 8)) for size, lines in sizes if size > 0), zlib.decompressobj()
    for kind, content in _chunks(data):
        if kind == b"IDAT" and missing > 0:
            missing -= len(inflater.decompress(content, missing))
    if missing > 0:
        raise UserError("it is damaged: its last lines are missing.")


def _png_of_16_bits(image: ImageFile, data: bytes) -> np.ndarray:
    image.load()  # raises where something is missing
    with muted_stderr():
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise UserError("it is damaged: its last lines are missing, or libpng cannot read it.")
    pixels = np.atleast_3d(np.asarray(decoded, np.uint16))
    # OpenCV's order is BGR, and colour type 4, grey with alpha, is BGRA.
    return pixels[..., [2, 3] if data[25] == 4 else {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]


def _jpeg_pixels(image: ImageFile, data: bytes) -> np.ndarray | None:
    """Decode a grey or RGB JPEG; ``None`` leaves it to Pillow, which fills missing parts of a picture without a word."""
    start = cast(BinaryIO, image.fp).tell()
    try:
        pixels = simplejpeg.decode_jpeg(data, {"L": "GRAY"}.get(image.mode, image.mode), strict=True)
    except ValueError as error:
        text = str(error)
        if re.search(r"corrupt|premature|truncated", text, re.IGNORECASE) and not _is_padding(text, data, start):
            # Bytes behind the last block look alike, be they strange to it or blocks that damage has left over.
            what = "damaged, or has bytes left over behind" if "extraneous" in text else "damaged or cut off: it lacks a part of"
            raise UserError(
                f"it is {what} its picture ({text}). Fetch it anew, or save it anew where it looks right in a viewer."
            ) from error
        return None
    return None if image.mode == "CMYK" else pixels


def _is_padding(text: str, data: bytes, start: int) -> bool:
    """Tell whether libjpeg warns of bytes that are no pixels: stray ones in the header, or a filling behind the last block.

    Pixels that damage has left over look random, or go on with a pattern that began before.
    """
    if not (match := re.search(r"(\d+) extraneous bytes before marker 0x(..)", text)):
        return False
    count, marker = int(match[1]), bytes.fromhex("ff" + match[2])
    end = data.find(marker, start, data.find(b"\xff\xd9", start) + 2)
    if end < 0 or marker != b"\xff\xd9":
        return end < 0
    tail = np.frombuffer(data, np.uint8)[max(start, end - count - 99) : end][::-1]
    for period in range(1, 17):
        differs = np.append(tail[period:] != tail[:-period], True)
        size = period + int(differs.argmax())
        # libjpeg does not count up to 8 bytes that it had read ahead, to each of which an escape may belong.
        uncounted = 8 + tail[max(size - 16, 0) : size].tobytes().count(b"\0\xff")
        if 0 <= size - count <= uncounted and (size - period >= min(12, 3 * period) or not tail[:size].any()):
            return True
    return False


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, of OpenCV's 16-bit arrays too, which ``ImageOps.exif_transpose`` does not take."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _exif(image: ImageFile) -> Any:
    """Return the EXIF tags, or none where they cannot be parsed: the picture is whole nevertheless."""
    try:
        return image.getexif()
    except Exception:  # of any type, as from decoders
        return {}


def _packet(xmp: Any) -> bytes:
    return xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else b""


def _metadata(image: ImageFile, data: bytes) -> Metadata:
    info, tags = image.info, set(_exif(image))
    exif = bool(tags - {_ORIENTATION} or ("exif" in info and not tags))  # EXIF without any tag cannot be parsed
    xmp = _packet(info.get("xmp") or info.get("XML:com.adobe.xmp"))
    present = {
        "EXIF": exif,
        "XMP": bool(xmp),
        "IPTC": "photoshop" in info,
        "further pictures": image.format == "MPO",
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Both say what the numbers of a PNG mean: a gamma that is not sRGB's 1 / 2.2, and the code points of HDR video.
        "gamma": "icc_profile" not in info and "srgb" not in info and abs(info.get("gamma", 0.4545) - 0.4545) > 0.01,
        "code points of a colour space": image.format == "PNG" and b"cICP" in data[: data.find(b"IDAT")],
    }
    names = tuple(name for name, is_present in present.items() if is_present)
    block = info.get("exif", b"") if exif else b""
    return Metadata(info.get("icc_profile") or None, names, block, xmp)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn HxWxC uint8, uint16 or floating point into [1, C, H, W], float32 in 0..1 (divided by 255, 65535 or 1)."""
    planes = np.array(pixels.transpose(2, 0, 1)[None], dtype=np.float32, order="C")
    return torch.from_numpy(planes).div_(_peak(pixels.dtype))


def _peak(dtype: np.dtype | type) -> int:
    return 1 if np.issubdtype(dtype, np.floating) else int(np.iinfo(dtype).max)


def to_pixels(output: Tensor, dtype: np.dtype | type) -> np.ndarray:
    """Turn [1, C, H, W] into HxWxC of a ``dtype``: clipped to 0..1; to integers scaled and rounded half to even."""
    levels = output[0].clamp(0, 1)
    levels = levels if _peak(dtype) == 1 else levels.mul_(_peak(dtype)).round_()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))


def unreadable(path: Path | str) -> str:
    """Return why a path is no file that can be read, such as a broken link, a folder or a pipe; ``""`` if it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        broken = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return f"it is a link to {os.readlink(path)}, which is not there" if broken else error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "it is a folder" if os.access(path, os.R_OK | os.X_OK) else f"it is a folder: {NO_PERMISSION}"
    if not stat.S_ISREG(mode):
        return "it is a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else NO_PERMISSION


def check_readable(files: Iterable[str]) -> None:
    """Raise a UserError that names the files of a data set which are :func:`unreadable`, before any of them is needed."""
    files = set(files)
    problems = sorted(f"  {file}: {problem}" for file in files if (problem := unreadable(file)))
    if problems:
        head = f"{len(problems)} of {len(files)} files of the data set cannot be read:"
        rest = [f"  ... and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UserError("\n".join([head, *problems[:10], *rest, "Fetch them, or take them out."]))


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an upright image from its header, or by decoding, with a UserError if it is no image.

    An orientation that a PNG states behind its pixels is not seen.
    """
    if problem := unreadable(file):  # opening a pipe would wait for a writer
        raise UserError(f"cannot read the image {file}: {problem}.")
    try:
        with _quiet_pillow(), file.open("rb") as stream:
            if stream.peek(4)[:4] in _TIFF_MAGIC:
                page = _tiff_image(stream)[1]
                height, width, orientation = page.imagelength, page.imagewidth, page.tags.valueof(_ORIENTATION)
            else:
                with _opened(stream) as image:
                    width, height = image.size
                    # The method of the base class, since that of PNG images decodes the pixels first.
                    orientation = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # decoders raise errors of every type; decoding again, the reason is found and named
        height, width = read_image(file).shape[:2]
        return height, width
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of :func:`read_with_metadata` alone."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[np.ndarray, Metadata]:
    """Return pixels and metadata of an image file of any suffix, as :func:`decode_with_metadata`; a UserError names the file."""
    try:
        if problem := unreadable(path):
            raise UserError(f"{problem}.")
        _check_memory(path.stat().st_size, "its bytes take")
        return decode_with_metadata(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"cannot read the image {path}: {_reason(error)}") from error


def read_rgb(path: Path) -> np.ndarray:
    """Return an image file as HxWx3 uint8 RGB, whatever it holds: the pixels of training and benchmarks."""
    return as_rgb(read_image(path))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return HxWxC pixels as HxWx3 uint8 RGB: grey repeated, alpha dropped, 16 bits divided by 257 and rounded."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    colour = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def write_image(path: Path, pixels: np.ndarray, *how: Any, **metadata: Any) -> None:
    """Write an image file in the format of its suffix, atomically, and make its folder where it is missing.

    Further arguments and errors are those of :func:`~sr_nas.images.encode.encode`; a UserError too where nothing can be written.
    """
    try:
        data = encode(pixels, path.suffix, *how, **metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except (OSError, UserError) as error:
        raise UserError(f"cannot write the image {path}: {_reason(error)}") from error


def _reason(error: OSError | UserError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
