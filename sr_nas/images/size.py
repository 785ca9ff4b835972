"""The size of an image file, from its first bytes."""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sr_nas.images.decode import DAMAGED, FORMATS, PNG_END
from sr_nas.images.files import read_image
from sr_nas.images.metadata import ORIENTATION
from sr_nas.images.pillow import undisturbed

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
        with undisturbed(), Image.open(file, formats=FORMATS) as image:
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
