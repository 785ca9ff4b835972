"""TIFF files: the image that is meant, whether its kind is read, and its samples where Pillow would lose some of them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import cv2
import numpy as np
import tifffile
from PIL import TiffImagePlugin

from sr_nas.errors import UserError

_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
"""Samples of a pixel without extra ones, by PhotometricInterpretation: grey from white, grey, RGB, palette, CMYK, YCbCr."""
_FORMATS = {1: "integers", 2: "integers with a sign", 3: "floating point"}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha that is multiplied into the colours, or not: values of ExtraSamples (TIFF 6.0, 18)
_LZW = 5
_UNPACKED = (1, 8, 32773, 32946, 34925)
"""Compressions that tifffile undoes without another package: none, deflate, PackBits, deflate's older number, LZMA."""


def main_image(stream: BinaryIO) -> tuple[int, tifffile.TiffPage]:
    """Return the image of a TIFF that is no thumbnail, and its number; a UserError for several, or a kind that is not read."""
    pages = cast(list[tifffile.TiffPage], list(tifffile.TiffFile(stream).pages))
    # Thumbnails by NewSubfileType, and by SubfileType of older files (tag 255).
    full = [number for number, page in enumerate(pages) if not page.is_reduced and page.tags.valueof(255) != 2]
    if len(full) > 1:
        raise UserError(f"it holds {len(full)} images; save the one that is meant as a file of its own.")
    number = full[0] if full else 0
    page, bits, deepest = pages[number], pages[number].bitspersample, 16 if pages[number].photometric <= 2 else 8
    extra = page.samplesperpixel - _COLOURS.get(page.photometric, math.inf)
    if bits not in (1, 2, 4, 8, deepest) or page.sampleformat != 1 or not -3 < extra <= 1 or page.imagedepth > 1:
        kind = f"{bits}-bit {_FORMATS.get(page.sampleformat, 'values of another format')}, {page.samplesperpixel} a pixel"
        name = getattr(page.photometric, "name", page.photometric)
        raise UserError(f"its pixels are {kind} ({name}); convert it to a PNG or TIFF of 8 or 16 bits per channel.")
    if len(page.dataoffsets) < math.prod(page.chunked) or 0 in (*page.dataoffsets, *page.databytecounts):
        raise UserError("it is damaged: some of its strips or tiles are missing.")
    return number, page


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Drop what is written to stderr: what libtiff or libpng remark on a damaged file that an error names."""
    if sys.stderr is None:  # it was closed at the start; its number may be another file's now
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@muted_stderr()
def tiff_pixels(
    number: int, page: tifffile.TiffPage, data: bytes, convert: Callable[[Any], np.ndarray]
) -> tuple[np.ndarray, int]:
    """Decode to HxWxC, with the orientation still to be applied; ``convert`` makes the pixels of an image that Pillow opens."""
    samples, planar = page.samplesperpixel, page.planarconfig == 2 and page.samplesperpixel > 1
    plain = page.bitspersample >= 8 and page.photometric <= 2  # grey or RGB; an extra sample of which nothing is stated is alpha
    alpha = plain and samples > _COLOURS[page.photometric] and (*page.extrasamples, _UNASSOCIATED)[0]
    if plain and page.compression in _UNPACKED and page.predictor in (1, 2):
        pixels = page.asarray(maxworkers=1)
        pixels = np.moveaxis(pixels, 0, -1) if planar else np.atleast_3d(pixels)
        return _straight(pixels, page.photometric, alpha), page.tags.valueof(274, 1)
    if page.bitspersample == 16 or (planar and alpha):
        if planar or page.compression != _LZW or samples == 2 or page.photometric == 0:
            name = getattr(page.compression, "name", page.compression)
            raise UserError(f"this kind of TIFF is not read with {name} compression; save it with ZIP compression, or as a PNG.")
        pixels = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, range=(number, number + 1))[1][0]
        pixels = pixels[..., [2, 1, 0, 3][:samples]] if samples > 1 else pixels[..., None]
        return _straight(pixels, page.photometric, alpha), 1  # it turns the image itself, as Pillow does
    image: Any = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    image.seek(number)
    if alpha != _ASSOCIATED:
        return convert(image), 1
    # As stored: where Pillow divides by alpha, it cuts what it should round.
    image.tile = [tile._replace(args=("RGBA" if image.mode == "RGBA" else "La", *tile.args[1:])) for tile in image.tile]
    return _straight(np.array(image), page.photometric, alpha), 1


def _straight(pixels: np.ndarray, photometric: int, alpha: int) -> np.ndarray:
    """Return stored samples as light on black, without an extra one that is no alpha, and with alpha divided out, rounded."""
    most = np.iinfo(pixels.dtype).max
    colour, extra = np.split(pixels, [_COLOURS[photometric]], axis=2)
    if photometric == 0:
        colour = most - colour
    if alpha == _ASSOCIATED:
        divisor = np.maximum(extra[..., 0], 1)
        for plane in np.moveaxis(colour, 2, 0):  # one at a time: the products take 32 bits
            plane[:] = np.minimum((plane.astype(np.uint32) * most + divisor // 2) // divisor, most) * (extra[..., 0] > 0)
    return np.dstack([colour, extra]) if alpha in (_ASSOCIATED, _UNASSOCIATED) else colour
