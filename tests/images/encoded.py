"""Encoded images for these tests, some by the formats' specifications."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    pixels: np.ndarray, colour_type: int, bits: int, extra: bytes = b"", width: int | None = None, height: int | None = None
) -> bytes:
    """Write a PNG by its specification, for the kinds that neither Pillow nor OpenCV writes; ``extra`` follows IHDR."""
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else ">u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width or pixels.shape[1], height or pixels.shape[0], bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_unreadable(folder: Path) -> dict[str, str]:
    """Fill a folder with what is named as an image and cannot be read; return name -> reason. Root may read any file."""
    (folder / "link.png").symlink_to("/nowhere/annex.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "shut.png").touch(0)
    reasons = {"link.png": "a link to /nowhere/annex.png, which is not there", "loop.png": "Too many levels of symbolic links"}
    return (
        reasons | {"pipe.png": "a pipe"} | ({} if os.access(folder / "shut.png", os.R_OK) else {"shut.png": "Permission denied"})
    )


def bmp(width: int, height: int, bits: int, packing: int, header: int, rows: bytes, masks: Sequence[int] = ()) -> bytes:
    """Write a BMP with a header of 40 bytes (version 3), 64 (OS/2 2), 108 or 124 (4, 5); a negative height: first row first."""
    stated = struct.pack("<IIIHHIIIIII", header, width & 0xFFFFFFFF, height & 0xFFFFFFFF, 1, bits, packing, 0, 0, 0, 0, 0)
    stated = (stated + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + header + len(rows), 0, 0, 14 + header) + stated + rows
