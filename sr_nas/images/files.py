"""Image files: listing folders, reading, measuring and writing files; pixel arrays <-> tensors."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sr_nas.errors import UserError, listing
from sr_nas.images.decode import DECODE_ERRORS, ORIENTATION, READABLE, Metadata, decode_with_metadata, unlimited_pillow
from sr_nas.images.encode import FORMATS, encode
from sr_nas.runs.files import replacing

IMAGE_SUFFIXES = tuple(FORMATS)
"""Suffixes of the files that are read and written, in lower case; upper case is accepted too."""
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF 6.0


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn HxWxC uint8 or uint16 into [1, C, H, W], float32 in 0..1 (divided by 255 or 65535)."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    return torch.from_numpy(planes).div_(np.iinfo(pixels.dtype).max)


def to_pixels(output: Tensor, dtype: np.dtype | type) -> np.ndarray:
    """Turn [1, C, H, W] into HxWxC of an unsigned integer ``dtype``: clipped to 0..1, scaled, rounded half to even."""
    levels = output[0].clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in ``folder``, sorted by name, without hidden ones.

    Raises:
        UserError: the folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder." if folder.exists() else f"the folder {folder} does not exist.")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if not images:
        content = listing([entry.name + "/" * entry.is_dir() for entry in entries], limit=5) or "nothing"
        raise UserError(f"no image in {folder}: looked for {listing(IMAGE_SUFFIXES)}, found {content}.")
    return images


def find_images(folder: Path, besides: Path) -> list[Path]:
    """Return the image files in ``folder`` and all folders below, in :func:`natural_order`.

    Hidden files and folders are left out, links to folders are not followed, and the folder ``besides`` is not entered.

    Raises:
        UserError: the folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist.")
    besides, images = besides.resolve(), []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name).resolve() != besides]
        files = (Path(place, name) for name in names if not name.startswith("."))
        images += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not images:
        raise UserError(f"no image in {folder} or below: looked for {listing(IMAGE_SUFFIXES)}.")
    return sorted(images, key=natural_order)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Sort key by which ``frame_9.png`` comes before ``frame_10.png``."""
    parts = [re.split(r"(\d+)", part.lower()) for part in path.parts]
    return [[int(piece) if number % 2 else piece for number, piece in enumerate(part)] for part in parts], str(path)


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an upright image from its header.

    An orientation that a PNG states behind its pixels is not seen; files whose header cannot be parsed are decoded.

    Raises:
        UserError: it is missing or no image.
    """
    try:
        with unlimited_pillow(), Image.open(file, formats=READABLE) as image:
            # Pillow 13 gives the size of a TIFF upright, older versions as it is stored.
            width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if image.format == "TIFF" else image.size
            # The method of the base class, since that of PNG images decodes the pixels first.
            turned = Image.Image.getexif(image).get(ORIENTATION) in (5, 6, 7, 8)
    except (*DECODE_ERRORS, KeyError):
        height, width = read_image(file).shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Return the pixels alone, see :func:`read_with_metadata`."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[np.ndarray, Metadata]:
    """Return an image file's pixels, HxWxC, uint8 or uint16, and its metadata; the format is recognised by the content.

    Raises:
        UserError: missing or unreadable, or as :func:`~sr_nas.images.decode.decode_with_metadata`.
    """
    try:
        return decode_with_metadata(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"cannot read the image {path}: {_reason(error)}") from error


def read_rgb(path: Path) -> np.ndarray:
    """Return an image file as HxWx3 uint8 RGB, whatever it holds: the pixels of training and benchmarks.

    Raises:
        UserError: as :func:`read_with_metadata`.
    """
    return as_rgb(read_image(path))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return HxWxC pixels as HxWx3 uint8 RGB: grey repeated, alpha dropped, 16 bits divided by 257 and rounded."""
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    colour = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)))


def write_image(path: Path, pixels: np.ndarray, quality: int = 95, icc_profile: bytes | None = None) -> None:
    """Write an image file in the format of its suffix, atomically; its folder is made where it is missing.

    Args:
        path: the file, which may exist.
        pixels: HxW or HxWxC, uint8 or uint16.
        quality: of JPEG, 0..100.
        icc_profile: colour profile of the file, see :func:`~sr_nas.images.encode.holds_profile`.

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
