"""Encoded images for these tests, some by the formats' specifications."""

from __future__ import annotations

import io
import os
import struct
import zlib
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


def png(pixels: np.ndarray, colour_type: int, bits: int, extra: bytes = b"") -> bytes:
    """Write a PNG by its specification, for the kinds that neither Pillow nor OpenCV writes; ``extra`` follows IHDR."""
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else ">u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour_type, 0, 0, 0)
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
