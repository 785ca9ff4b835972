"""EXIF and XMP of a photo: made to fit the picture that is written, and embedded in it.

Fields are copied byte by byte, maker notes too, in the byte order that they had.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np

OF_TIFF = {270, 271, 272, 306, 315, 33432, 34665, 34853}
"""TIFF tags of title, camera, time, artist, copyright, EXIF and GPS; the others are of the pixels."""
_POINTERS: dict[int, Any] = {34665: {40965: {}}, 34853: {}}
"""Tags that point to another table of fields, and the tags there that do: EXIF with interoperability, and GPS."""
_ORIENTATION = 274
_WIDTHS, _HEIGHTS = (256, 40962), (257, 40963)
"""ImageWidth and PixelXDimension, ImageLength and PixelYDimension (Exif 2.32, 4.6.4 A and 4.6.5 C)."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
"""Type of a field -> bytes of one of its values (TIFF 6.0, section 2; Exif 3.0 for UTF-8)."""
_OF_OTHER_PARTS = re.compile(rb"HasExtendedXMP|Container:Directory|hdrgm:|\0")
"""In XMP: names of parts of the file that are not written, such as a gain map for HDR; or UTF-16, which is not read."""
_THUMBNAILS = re.compile(rb"<(\w+:Thumbnails)\b(?:[^>]*/>|.*?(?:</\1>|\Z))", re.DOTALL)

Fields = dict[int, tuple[int, Any]]
"""Tag -> type, and the bytes of all values, or the fields that it points to."""


def fitted(exif: bytes, xmp: bytes, form: str, height: int, width: int) -> tuple[bytes, bytes]:
    """Return EXIF and XMP for an upright picture of another size: without thumbnails, which would be of the smaller one.

    Args:
        exif: a TIFF header and what follows it, perhaps behind ``Exif\\0\\0``; ``b""`` for none.
        xmp: the packet; ``b""`` for none.
        form: the format's name, as :class:`~sr_nas.images.encode.Format` has it.
        height: of the picture, as is ``width``.

    Returns:
        Both; ``b""`` for one that is damaged, names parts of the file that are not written, or has no room in the format.
    """
    sizes = dict.fromkeys(_WIDTHS, width) | dict.fromkeys(_HEIGHTS, height)
    most = {"JPEG": 65502, "BMP": 0}.get(form, 2**32 if height * width < 2**29 else 0)  # a larger TIFF is a BigTIFF
    exif = rewritten(exif.removeprefix(b"Exif\0\0"), sizes)
    xmp = b"" if _OF_OTHER_PARTS.search(xmp) else _THUMBNAILS.sub(b"", xmp)
    for name, value in (
        (rb"tiff:Orientation", 1),
        (rb"(?:exif:PixelXDimension|tiff:ImageWidth)", width),
        (rb"(?:exif:PixelYDimension|tiff:ImageLength)", height),
    ):
        xmp = re.sub(rb"(%b(?:\s*=\s*[\"']|>\s*))\d+" % name, rb"\g<1>%d" % value, xmp)
    return exif if len(exif) <= most else b"", xmp if len(xmp) <= most else b""


def rewritten(exif: bytes, sizes: dict[int, int], at: int | None = None, tags: Collection[int] | None = None) -> bytes:
    """Return EXIF, or that of a TIFF file, as a block of its own, with an orientation of 1 and without a second directory.

    ``sizes`` are tags and what they state instead where they are there, ``at`` is the offset of the first directory, by default
    the header's, and ``tags`` are those to keep in it, by default all. It is ``b""`` where there is none, or it cannot be read.
    """
    try:
        order, fields = _read(exif, at)
    except (KeyError, IndexError, struct.error):
        return b""
    fields = {tag: field for tag, field in fields.items() if tags is None or tag in tags}
    for table in (fields, fields.get(34665, (0, {}))[1]):
        for tag, value in sizes.items():
            if tag in table:
                table[tag] = 4, struct.pack(f"{order}L", value)
    if _ORIENTATION in fields:
        fields[_ORIENTATION] = 3, struct.pack(f"{order}H", 1)
    return exif[:4] + struct.pack(f"{order}L", 8) + _written(fields, order, 8) if fields else b""


def _read(block: bytes, at: int | None = None) -> tuple[str, Fields]:
    """Return the byte order and the fields of a classic TIFF; an error of struct or a KeyError where it is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[block[:4]]
    return order, _fields(block, struct.unpack_from(f"{order}L", block, 4)[0] if at is None else at, order, _POINTERS)


def _fields(block: bytes, at: int, order: str, pointers: dict[int, Any]) -> Fields:
    fields, total = Fields(), 0
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from(f"{order}H", block, at)[0], 12):
        tag, kind, count = struct.unpack_from(f"{order}HHL", block, place)
        if tag in fields:
            continue
        size = count * _SIZES.get(kind, 0)
        start = place + 8 if size <= 4 else struct.unpack_from(f"{order}L", block, place + 8)[0]
        value: Any = block[start : start + size]
        total += size
        if total > 2 * len(block):  # fields that share their bytes without end
            raise struct.error
        if tag in pointers:
            value = _fields(block, struct.unpack(f"{order}L", value)[0], order, pointers[tag])
        if (size and len(value) == size) or tag in pointers:  # else it has no value in the file
            fields[tag] = kind, value
    return fields


def _written(fields: Fields, order: str, base: int) -> bytes:
    """Return a table of fields that is to stand at an offset, with what it points to behind it."""
    table, rest = struct.pack(f"{order}H", len(fields)), bytearray()
    for tag, (kind, value) in sorted(fields.items()):
        place = base + 6 + 12 * len(fields) + len(rest)
        count = 1 if isinstance(value, dict) else len(value) // _SIZES[kind]
        if isinstance(value, dict) or len(value) > 4:
            behind = _written(value, order, place) if isinstance(value, dict) else value + b"\0" * (len(value) % 2)
            rest += behind
            value = struct.pack(f"{order}L", place)
        table += struct.pack(f"{order}HHL", tag, kind, count) + value.ljust(4, b"\0")
    return table + bytes(4) + rest


def _swapped(kind: int, value: Any, before: str, after: str) -> tuple[int, Any]:
    """Return a field in another byte order; what has no type stays as it is."""
    if isinstance(value, dict):
        return kind, {tag: _swapped(own, content, before, after) for tag, (own, content) in value.items()}
    unit = _SIZES[kind] // (2 if kind in (5, 10) else 1)  # rationals are pairs
    return kind, np.frombuffer(value, f"{before}u{unit}").astype(f"{after}u{unit}").tobytes()


def embedded(data: bytes, form: str, exif: bytes, xmp: bytes) -> bytes:
    """Return an encoded JPEG, PNG or TIFF without metadata with these, as :func:`fitted` gives them."""
    if form == "JPEG":
        contents = [b"Exif\0\0" + exif] * bool(exif) + [b"http://ns.adobe.com/xap/1.0/\0" + xmp] * bool(xmp)
        behind = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2  # JFIF comes first
        segments = [b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content for content in contents]
        return data[:behind] + b"".join(segments) + data[behind:]
    if form == "PNG":
        chunks = [png_chunk(b"eXIf", exif)] * bool(exif) + [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)] * bool(xmp)
        return data[:33] + b"".join(chunks) + data[33:]  # behind IHDR, as iCCP is
    order, fields = _read(data)
    if exif:
        before, others = _read(exif)
        others = {tag: field for tag, field in others.items() if tag in OF_TIFF}
        fields = _swapped(0, others, before, order)[1] | fields
    if xmp:
        fields[700] = 1, xmp
    data += b"\0" * (len(data) % 2)
    return data[:4] + struct.pack(f"{order}L", len(data)) + data[8:] + _written(fields, order, len(data))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
