"""Pixels <-> the tensors of a network."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.images.decode import DAMAGED, ORIENTATION, PNG_END, READABLE, Metadata, decode_with_metadata, undisturbed
from sr_nas.images.encode import FORMATS, encode
from sr_nas.runs.files import replacing


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn HxWxC uint8 or uint16 into [1, C, H, W], float32 in 0..1 (divided by 255 or 65535)."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    return torch.from_numpy(planes).div_(np.iinfo(pixels.dtype).max)


def to_pixels(output: Tensor, dtype: np.dtype | type) -> np.ndarray:
    """Turn [1, C, H, W] into HxWxC of an unsigned integer ``dtype``: clipped to 0..1, scaled, rounded half to even."""
    levels = output[0].clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))


# MERGED sr_nas.images.files: The size of an image file, from its first bytes.


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT = 256, 257
"""Tags of TIFF 6.0."""
_TURNING = (
    b"eXIf",
    b"iTXtXML:com.adobe.xmp",
    b"iTXtRaw profile type exif",
    b"tEXtRaw profile type exif",
    b"zTXtRaw profile type exif",
)
"""Beginnings of the chunks of a PNG that may tell its orientation."""


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an image as :func:`sr_nas.images.files.read_image` would give it, mostly without decoding it.

    Raises:
        UserError: it is missing or no image.
    """
    try:
        with undisturbed(), Image.open(file, formats=READABLE) as image:
            # Of a TIFF on its side, some versions of Pillow give the size upright and others as it is stored.
            tags = image.tag_v2 if image.format == "TIFF" else None
            width, height = image.size if tags is None else (tags[_WIDTH], tags[_HEIGHT])
            # PngImageFile's own getexif() would decode the pixels to look behind them.
            turned = (Image.Image.getexif(image) if tags is None else tags).get(ORIENTATION) in (5, 6, 7, 8)
            known = image.format != "PNG" or not _tells_more_behind_its_pixels(file)
    except (*DAMAGED, UnidentifiedImageError, KeyError, Image.DecompressionBombError):
        known = False
    if not known:
        # The decoder takes more, or says why it does not.
        height, width = read_image(file).shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def _tells_more_behind_its_pixels(png: Path) -> bool:
    behind = False
    with png.open("rb") as stream:
        stream.seek(len(_SIGNATURE))
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            start = stream.tell()
            behind |= kind == b"IDAT"
            if behind and kind != b"IDAT" and (kind + stream.read(24)).startswith(_TURNING):
                return True
            stream.seek(start + length + 4)
    return False


def whole_png_size(file: Path) -> tuple[int, int] | None:
    """Return height and width of a PNG file that begins and ends as one; ``None`` where it is missing, cut off or no PNG."""
    try:
        with file.open("rb") as stream:
            head = stream.read(24)
            stream.seek(-len(PNG_END), 2)
            tail = stream.read()
    except OSError:
        return None
    if head[:8] != _SIGNATURE or head[12:16] != b"IHDR" or tail != PNG_END:
        return None
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")


# MERGED sr_nas.images.files: Image files: found, read as they are, and written in one step.


IMAGE_SUFFIXES = tuple(FORMATS)
"""Suffixes of the files that are read and written, in lower case; upper case is accepted too."""


def list_images(folder: Path) -> list[Path]:
    """Return the image files that lie directly in ``folder``, sorted by name; hidden files are left out.

    Raises:
        UserError: the folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder." if folder.exists() else f"the folder {folder} does not exist.")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not images:
        found = listing([entry.name + "/" * entry.is_dir() for entry in entries], limit=5) or "nothing"
        raise UserError(f"no image in {folder}: looked for {listing(IMAGE_SUFFIXES)}, found {found}.")
    return images


def find_images(folder: Path, besides: Path) -> list[Path]:
    """Return the image files in ``folder`` and all folders below, in :func:`natural_order`.

    Hidden files and folders are left out, links to folders are not followed, and the folder ``besides`` is not entered.

    Raises:
        UserError: the folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist.")
    besides, found = besides.resolve(), []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name).resolve() != besides]
        images = [Path(place, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES]
        found += [image for image in images if image.is_file()]
    if not found:
        raise UserError(f"no image in {folder} or below: looked for {listing(IMAGE_SUFFIXES)}.")
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Return the key that sorts paths as people count: ``frame_9.png`` before ``frame_10.png``."""
    parts = [re.split(r"(\d+)", part.lower()) for part in path.parts]
    return [[int(piece) if number % 2 else piece for number, piece in enumerate(part)] for part in parts], str(path)


def read_image(path: Path) -> np.ndarray:
    """Return the pixels of an image file: the first of what :func:`read_with_metadata` returns."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[np.ndarray, Metadata]:
    """Return an image file's pixels, HxWxC, uint8 or uint16, and what it says beside them.

    See :func:`~sr_nas.images.decode.decode_with_metadata`.

    The format is told by the content, not by the suffix.

    Raises:
        UserError: missing, unreadable, empty, damaged, cut off, several images in one, floating point, or another format.
    """
    try:
        return decode_with_metadata(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"cannot read the image {path}: {_reason(error)}") from error


def read_rgb(path: Path) -> np.ndarray:
    """Return an image file as HxWx3 uint8 RGB: what training and benchmarks see, whatever the file holds.

    Raises:
        UserError: as :func:`read_image`.
    """
    return as_rgb(read_image(path))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return HxWxC pixels of any kind as HxWx3 uint8 RGB.

    Grey is repeated in the three channels, alpha is dropped, and 16 bits are scaled to 8 by rounding v / 257, which
    maps 65535 to 255.
    """
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    colour = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def write_image(path: Path, pixels: np.ndarray, quality: int = 95, icc_profile: bytes | None = None) -> None:
    """Write an image file in the format of its suffix, as :func:`~sr_nas.images.encode.encode` says.

    The file appears, or replaces an older one, in one step; its folder is made where it is missing.

    Args:
        path: the file.
        pixels: HxW or HxWxC, uint8 or uint16.
        quality: of JPEG, 0..100.
        icc_profile: colour profile that the file holds, see :func:`~sr_nas.images.encode.holds_profile`.

    Raises:
        UserError: an unknown suffix, a format that cannot hold these pixels, or a place that cannot be written to.
        ValueError: an array that is no image, or a profile that the file cannot hold.
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
