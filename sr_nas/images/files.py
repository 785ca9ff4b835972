"""Image files: decoding, reading, listing and writing them; pixel arrays <-> tensors.

Damaged files are an error, never half an image.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import stat
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.images.encode import FORMATS, encode
from sr_nas.runs.files import replacing

IMAGE_SUFFIXES = tuple(FORMATS)
"""Suffixes of the files that are read and written, in lower case; upper case is accepted too."""
_OTHER_IMAGES = re.compile(
    r"\.(3fr|apng|arw|avif|bpg|cr[23w]|cur|dcr|dds|dib|dng|dpx|emf|eps|erf|exr|fits?|flif|gif|hdr|hei[cf]s?|hif|icns|ico|iiq|j2[ck]|"
    r"jp2|jp[cfmx]|jxl|jxr|kdc|mef|mos|mpo|mrw|nef|nrw|orf|p[abgnp]m|pcx|pef|pfm|pict|pjp|pjpeg|ps[bd]|qoi|raf|raw|rw[2l]|sgi|sr[2fw]|"
    r"svg|tga|wbmp|wdp|wmf|x3f|x[bp]m|xcf)",
    re.IGNORECASE,
)
"""Suffixes of images that are not read."""
_NO_PERMISSION = os.strerror(errno.EACCES)
_READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats that are decoded, by Pillow's names."""
_DECODE_ERRORS = (
    *(OSError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError, ValueError),
    *(cv2.error, struct.error, zlib.error),
)
"""What Pillow and OpenCV raise on damaged, truncated or foreign files."""
_ORIENTATION = 274
"""EXIF tag of the orientation, 1 to 8 (Exif 2.32, 4.6.4 A)."""

_MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA"}
_MODES |= {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Pillow mode of a file of up to 8 bits -> mode of the returned pixels."""
_OPENCV_16_BIT_MODES = ("I", "I;16", "I;16B", "L", "LA", "RGB", "RGBA")
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 256, 257, 258, 262, 284, 339  # tags of TIFF 6.0
_DESCRIPTIVE_TAGS = {270, 271, 272, 306, 315, 33432, 34665, 34853}
"""TIFF tags of title, camera, time, artist, copyright, EXIF and GPS."""
_HARMLESS = re.compile(r"extraneous bytes before marker 0x(?!d[0-79])")
"""libjpeg's warning of stray bytes between segments; before a restart or end marker they are coded pixels left over."""

_pillow_lock = threading.Lock()


class Metadata(NamedTuple):
    """Contents of an image file besides its pixels: the colour profile as stored, and names of others, such as ``"EXIF"``."""

    icc_profile: bytes | None = None
    others: tuple[str, ...] = ()


@contextlib.contextmanager
def _unlimited_pillow() -> Iterator[None]:
    """Lift Pillow's pixel limit, a global variable that guards servers, and mute its warnings; one thread at a time."""
    with _pillow_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
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

    Damage is, in a PNG, any wrong checksum; in a JPEG, any warning of libjpeg about its coded data; elsewhere, what fails to
    decode.

    Returns:
        HxWxC, uint8 or uint16 over the full range; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA, not premultiplied).
        Palettes and colour keys become RGB, or RGBA where something is transparent; CMYK becomes RGB; fewer than 8 bits are
        scaled to 0..255. The colour profile is not applied.

    Raises:
        UserError: empty, damaged, truncated, several images in one file, floating point, or an unknown format.
    """
    if not data:
        raise UserError("the file is empty.")
    try:
        with _unlimited_pillow():
            image = Image.open(io.BytesIO(data), formats=_READABLE)
            pixels = _pixels(image, data)
            # Pillow and OpenCV turn a TIFF themselves.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
            metadata = _metadata(image, data)
    except UnidentifiedImageError as error:
        raise UserError(f"it is damaged, or of a kind that is not read; {listing(_READABLE)} of 8 or 16 bits are.") from error
    except _DECODE_ERRORS as error:
        raise UserError(f"it is damaged, cut off or too large ({str(error) or type(error).__name__}).") from error
    return np.ascontiguousarray(_upright(pixels.reshape(*pixels.shape[:2], -1), orientation)), metadata


def _pixels(image: Image.Image, data: bytes) -> np.ndarray:
    # A camera's MPO is a JPEG followed by previews.
    if image.format in ("JPEG", "MPO") and (pixels := _jpeg_pixels(image, data)) is not None:
        return pixels
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise UserError(f"it holds {frames} images; save the one that is meant as a file of its own.")
    if image.format == "PNG":
        PngImageFile(io.BytesIO(data)).verify()  # decoding alone checks neither pixel checksums nor the end of the file
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
    exif = tags & _DESCRIPTIVE_TAGS if image.format == "TIFF" else tags - {_ORIENTATION} or ("exif" in info and not tags)
    present = {
        "EXIF": bool(exif),
        "XMP": "xmp" in info or "XML:com.adobe.xmp" in info,
        "text": bool(set(getattr(image, "text", {})) - {"XML:com.adobe.xmp"}) or "comment" in info,
        # Both say what the numbers of a PNG mean: a gamma that is not sRGB's 1 / 2.2, and the code points of HDR video.
        "gamma": "icc_profile" not in info and "srgb" not in info and abs(info.get("gamma", 0.4545) - 0.4545) > 0.01,
        "code points of a colour space": image.format == "PNG" and b"cICP" in data[: data.find(b"IDAT")],
    }
    return Metadata(info.get("icc_profile") or None, tuple(name for name, is_present in present.items() if is_present))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn HxWxC uint8 or uint16 into [1, C, H, W], float32 in 0..1 (divided by 255 or 65535)."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    return torch.from_numpy(planes).div_(np.iinfo(pixels.dtype).max)


def to_pixels(output: Tensor, dtype: np.dtype | type) -> np.ndarray:
    """Turn [1, C, H, W] into HxWxC of an unsigned integer ``dtype``: clipped to 0..1, scaled, rounded half to even."""
    levels = output[0].clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))


def unreadable(path: Path | str) -> str:
    """Return why a path is no file that can be read, such as a broken link, a folder or a pipe; ``""`` if it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        broken = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return f"it is a link to {os.readlink(path)}, which is not there" if broken else error.strerror or str(error)
    if stat.S_ISDIR(mode):
        return "it is a folder" if os.access(path, os.R_OK | os.X_OK) else f"it is a folder: {_NO_PERMISSION}"
    if not stat.S_ISREG(mode):
        return "it is a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else _NO_PERMISSION


def check_readable(files: Iterable[str]) -> None:
    """Raise a UserError that names the files of a data set which are :func:`unreadable`, before any of them is needed."""
    files = set(files)
    problems = sorted(f"  {file}: {problem}" for file in files if (problem := unreadable(file)))
    if problems:
        head = f"{len(problems)} of {len(files)} files of the data set cannot be read:"
        rest = [f"  ... and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UserError("\n".join([head, *problems[:10], *rest, "Fetch them, or take them out."]))


def is_folder(path: Path) -> bool:
    """Return whether a folder is there; a UserError where this cannot be known: a broken link, or no permission to look."""
    for place in (path.parent, path):
        problem = "" if os.path.isdir(place) else unreadable(place) or "it is a file"
        if problem == _NO_PERMISSION or (problem and os.path.islink(place)):
            raise UserError(f"{place} cannot be read as a folder: {problem}.")
    return os.path.isdir(path)


def list_images(folder: Path) -> list[Path]:
    """Return the images that :func:`find_images` finds directly in ``folder``, sorted by name."""
    return sorted(find_images(folder))


def find_images(folder: Path, recursive: bool = False, besides: Path | None = None, follow: bool = False) -> list[Path]:
    """Return what is named as an image in ``folder``, and below it if ``recursive``, in any order.

    That may be :func:`unreadable`, such as a broken link: without it the rest would be taken for the whole. A folder below that
    cannot be listed is returned too. Images of other kinds, and links to folders that are not followed, are counted on stderr.

    Args:
        besides: a folder to leave out, as hidden files and folders are.
        follow: search folders that links lead to as well, each once.

    Raises:
        UserError: the folder is missing or cannot be listed, or no image is in it.
    """
    try:
        content = sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError as error:
        problems = {FileNotFoundError: "does not exist", NotADirectoryError: "is not a folder"}
        raise UserError(f"{folder} {problems.get(type(error)) or f'cannot be listed: {error.strerror}'}.") from error
    images, others, links = list[Path](), list[Path](), list[Path]()
    entered = {os.path.realpath(place) for place in (folder, besides) if place is not None}

    def unlisted(error: OSError) -> None:
        images.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=unlisted, followlinks=follow):
        files, below = ([Path(place, name) for name in some if name[0] != "."] for some in (names, folders))
        others += [file for file in files if _OTHER_IMAGES.fullmatch(file.suffix)]
        images += [file for file in files + below * (not recursive) if file.suffix.lower() in IMAGE_SUFFIXES]
        folders.clear()  # what is in it then is walked
        for path in below if recursive else ():
            if path.is_symlink() and not follow:
                links.append(path)
            elif (real := os.path.realpath(path)) not in entered:
                entered.add(real)
                folders.append(path.name)
    if not images:
        there = listing((name + "/" * os.path.isdir(folder / name) for name in content), limit=5) or "nothing"
        raise UserError(f"no image in {folder}{' or below' * recursive}: looked for {listing(IMAGE_SUFFIXES)}, found {there}.")
    for paths, remark in ((others, "images of other kinds are left out"), (links, "links to folders are not followed")):
        if paths:
            _note(f"{folder}: {len(paths)} {remark} ({listing(sorted(path.relative_to(folder) for path in paths), 5)})")
    return images


@functools.cache  # a set is listed several times, at each scale for example
def _note(text: str) -> None:
    print(text, file=sys.stderr)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Sort key by which ``frame_9.png`` comes before ``frame_10.png``."""
    parts = [re.split(r"(\d+)", part.lower()) for part in path.parts]
    return [[int(piece) if number % 2 else piece for number, piece in enumerate(part)] for part in parts], str(path)


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an upright image from its header, or by decoding, with a UserError if it is no image.

    An orientation that a PNG states behind its pixels is not seen.
    """
    if problem := unreadable(file):  # opening a pipe would wait for a writer
        raise UserError(f"cannot read the image {file}: {problem}.")
    try:
        with _unlimited_pillow(), Image.open(file, formats=_READABLE) as image:
            # Pillow 13 gives the size of a TIFF upright, older versions as it is stored.
            width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if image.format == "TIFF" else image.size
            # The method of the base class, since that of PNG images decodes the pixels first.
            turned = Image.Image.getexif(image).get(_ORIENTATION) in (5, 6, 7, 8)
    except (*_DECODE_ERRORS, KeyError):
        height, width = read_image(file).shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of :func:`read_with_metadata` alone."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[np.ndarray, Metadata]:
    """Return pixels and metadata of an image file of any suffix, as :func:`decode_with_metadata`; a UserError names the file."""
    try:
        if problem := unreadable(path):
            raise UserError(f"{problem}.")
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


def write_image(path: Path, pixels: np.ndarray, quality: int = 95, icc_profile: bytes | None = None) -> None:
    """Write an image file in the format of its suffix, atomically, and make its folder where it is missing.

    Arguments and errors are those of :func:`~sr_nas.images.encode.encode`; a UserError too where nothing can be written.
    """
    try:
        data = encode(pixels, path.suffix, quality, icc_profile)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except (OSError, UserError) as error:
        raise UserError(f"cannot write the image {path}: {_reason(error)}") from error


def _reason(error: OSError | UserError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
