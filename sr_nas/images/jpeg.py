"""Whether a JPEG holds all of its picture: the format has no checksum, and decoders fill up what is missing in silence.

A decoder stops reading when its last block is full. In a sound file, bytes that are put in behind the coded ones are
therefore never looked at, while a file that has lost some takes its missing blocks from them; and in a sound file the last
coded bytes matter, while one in which damage was read as more blocks than there are ends before them.
"""

from __future__ import annotations

import io
import random
import re

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sr_nas.images.pillow import undisturbed

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Starts of frame in other than Huffman codes, lossless or hierarchical (ITU-T T.81, table B.1)."""
_RESTARTS, _END, _SCAN = range(0xD0, 0xD8), 0xD9, 0xDA
_FILL = bytes(random.Random(0).choices(range(255), k=64))
"""Arbitrary, without 0xFF, with which markers begin; enough that it is not read as nothing but what was there before."""
_LAST = 32
"""So many coded bytes at the end change a picture if others stand in their place: they hold several blocks of it."""

_whole: set[int] = set()
"""Hashes of the files found whole, so that a training that decodes them again and again looks at each once."""


def is_whole(data: bytes, image: Image.Image) -> bool:
    """Tell whether a JPEG seems to hold its whole picture, at the price of decoding it twice more.

    It does not where a scan, or what stands between two restart markers, is read as fewer blocks than it has; and, in files
    of one scan without restart markers, as more. Damage that leaves the number of blocks as it is, such as most changed
    bits, is not found, and arithmetic coding is not looked at.

    Args:
        data: the file, which Pillow decodes without an error.
        image: what it decodes to.
    """
    if hash(data) not in _whole:
        if not (_takes_no_more(data, image) and _takes_all(data, image)):
            return False
        _whole.add(hash(data))
    return True


def _takes_no_more(data: bytes, image: Image.Image) -> bool:
    parts, done = [], 0
    for _, end in _coded_pieces(data):
        parts += [data[done:end], _FILL]
        done = end
    return not done or _decodes_to(image, b"".join([*parts, data[done:]]))


def _takes_all(data: bytes, image: Image.Image) -> bool:
    pieces = _coded_pieces(data)
    if len(pieces) != 1 or pieces[0][1] - pieces[0][0] < 8 * _LAST:
        return True
    pixels, end = np.asarray(image), pieces[0][1]
    # The tables of a picture of one colour may know no other.
    return bool((pixels == pixels[:1, :1]).all()) or not _decodes_to(image, data[: end - _LAST] + _FILL + data[end:])


def _decodes_to(image: Image.Image, data: bytes) -> bool:
    with undisturbed():
        other = JpegImageFile(io.BytesIO(data))
    return np.array_equal(np.asarray(image), np.asarray(other))


def _coded_pieces(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of the pieces of Huffman codes of the first image in a file; none if it has other codes."""
    pieces: list[tuple[int, int]] = []
    start, at = 0, 2
    while (marker := _MARKER.search(data, at)) is not None:
        code, at = marker[1][0], marker.end()
        if start:
            pieces.append((start, marker.start()))
        if code in _OTHER_FRAMES:
            return []
        if code == _END:
            break
        if code not in _RESTARTS:
            at += int.from_bytes(data[at : at + 2], "big")
        start = at if code in _RESTARTS or code == _SCAN else 0
    return pieces
