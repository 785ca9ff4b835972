"""The size of an image file, from its first bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sr_nas.images.files import read_image

_SIGNATURE, _END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_ORIENTATION = 274


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an image as :func:`sr_nas.images.files.read_image` would give it, without decoding it.

    Raises:
        UserError: it is missing or no image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which are the user's own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
        with image:
            width, height = image.size
            # Of a PNG without EXIF before its pixels, getexif() would decode the pixels to look behind them.
            told = image.format != "PNG" or "exif" in image.info
            turned = told and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        # The decoder takes more, or says why it does not.
        height, width = read_image(file).shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def whole_png_size(file: Path) -> tuple[int, int] | None:
    """Return height and width of a PNG file that begins and ends as one; ``None`` where it is missing, cut off or no PNG."""
    try:
        with file.open("rb") as stream:
            head = stream.read(24)
            stream.seek(-len(_END), 2)
            tail = stream.read()
    except OSError:
        return None
    if head[:8] != _SIGNATURE or head[12:16] != b"IHDR" or tail != _END:
        return None
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
