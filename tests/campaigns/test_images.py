"""Thousands of damaged images of each format through inference: each is written whole or named, and nothing else happens."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from PIL import Image
from tifffile import TiffFile, TiffFileError

from tests.campaigns.machinery import MESSAGE, OK, Campaign, call
from tests.images.encoded import chunk

pytestmark = pytest.mark.campaign

BATCH = 250
"""Images that one process upscales."""
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
Mutation = Callable[[bytearray, Random], bytes]


def seeds(form: str) -> list[bytes]:
    """Return small sound images of a format: modes, depths, compressions, profiles and orientations that it has."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8), "RGBA")
    exif = Image.Exif()
    exif[274], exif[271] = 6, "camera"
    modes = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("1", "L", "P", "RGB", "RGBA"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    }[form]
    variants: dict[str, list[dict[str, object]]] = {
        "PNG": [{}, {"transparency": 3}, {"exif": exif, "icc_profile": b"profile" * 9}],
        "JPEG": [{}, {"progressive": True}, {"exif": exif, "icc_profile": b"profile" * 9}, {"restart_marker_blocks": 1}],
        "WEBP": [{}, {"lossless": True}, {"exif": exif, "icc_profile": b"profile" * 9}],
        "BMP": [{}],
        "TIFF": [{}, *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")), {"exif": exif}],
    }
    found = []
    for mode in modes:
        image = Image.fromarray(np.asarray(colour.convert("L"), np.uint16) * 257) if mode == "I;16" else colour.convert(mode)
        for settings in variants[form]:
            if "transparency" not in settings or mode in ("1", "L", "P"):
                image.save(stream := io.BytesIO(), form, **settings)
                found.append(stream.getvalue())
    if form in ("PNG", "TIFF"):
        deep = np.random.default_rng(1).integers(0, 65536, (20, 24, 4), np.uint16)
        found += [cv2.imencode(f".{form.lower()}", deep[..., :channels])[1].tobytes() for channels in (3, 4)]
    return found


def truncated(data: bytearray, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def flipped(data: bytearray, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        data[random.randrange(len(data))] = random.randrange(256)
    return data


def extreme(data: bytearray, random: Random) -> bytes:
    """Set a number of the header, of two or four bytes, to an extreme."""
    for _ in range(random.choice((1, 1, 2))):
        form = random.choice(("<H", ">H", "<I", ">I"))
        place = random.randrange(min(len(data) - 4, random.choice((64, 256, 4096))))
        struct.pack_into(form, data, place, random.choice(EXTREMES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    return data


def spliced(data: bytearray, random: Random) -> bytes:
    """Take a range out, double it, or move it."""
    start = random.randrange(len(data))
    piece = bytes(data[start : start + random.choice((1, 4, 16, 256))])
    if random.random() < 0.6:
        del data[start : start + len(piece)]
    if random.random() < 0.6:
        place = random.randrange(len(data) + 1)
        data[place:place] = piece
    return data


def lengthened(data: bytearray, random: Random) -> bytes:
    return data + random.randbytes(random.choice((1, 31, 1000)))


def shuffled(pieces: list[bytes], random: Random) -> list[bytes]:
    """Take one of a file's pieces out, double it, or exchange it with another."""
    one, other = random.randrange(len(pieces)), random.randrange(len(pieces))
    kind = random.randrange(3)
    if kind == 0:
        del pieces[one]
    elif kind == 1:
        pieces.insert(other, pieces[one])
    else:
        pieces[one], pieces[other] = pieces[other], pieces[one]
    return pieces


def png(data: bytearray, random: Random) -> bytes:
    """Change the chunks of a PNG, with checksums that are right."""
    pieces, place = [], 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, content = bytes(data[place + 4 : place + 8]), bytearray(data[place + 8 : place + 8 + length])
        if content and random.random() < 0.3:
            content = bytearray(random.choice(GENERAL)(content, random)) if len(content) > 4 else content
        if kind == b"IDAT" and random.random() < 0.3:
            content = bytearray(zlib.compress(random.randbytes(random.choice((0, 10, 4000)))))
        if random.random() < 0.05:
            kind = random.choice(
                (b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"cICP", b"gAMA", b"abcd")
            )
        pieces.append(chunk(kind, bytes(content)))
        place += 12 + length
    return bytes(data[:8]) + b"".join(shuffled(pieces, random) if random.random() < 0.6 else pieces)


def jpeg(data: bytearray, random: Random) -> bytes:
    """Change the segments of a JPEG."""
    return b"".join(shuffled(re.split(rb"(?=\xff[\xc0-\xfe])", bytes(data)), random))


def webp(data: bytearray, random: Random) -> bytes:
    """Change the chunks of a WebP, and mostly state their right size."""
    pieces, place = [], 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little") + 8
        pieces.append(bytes(data[place : place + length + length % 2]))
        place += length + length % 2
    body = b"WEBP" + b"".join(shuffled(pieces, random))
    return b"RIFF" + struct.pack("<I", len(body) if random.random() < 0.8 else random.choice(EXTREMES)) + body


def bmp(data: bytearray, random: Random) -> bytes:
    """Set a field of a BMP's header."""
    place, form = random.choice(
        ((2, "<I"), (10, "<I"), (14, "<I"), (18, "<I"), (22, "<I"), (26, "<H"), (28, "<H"), (30, "<I"), (46, "<I"))
    )
    struct.pack_into(
        form, data, place, random.choice((*EXTREMES, 4, 8, 12, 16, 24, 32, 40, 64)) & (0xFFFF if form == "<H" else 0xFFFFFFFF)
    )
    return data


def tiff(data: bytearray, random: Random) -> bytes:
    """Set tag, type, count or value of an entry in a TIFF's directory, or their number."""
    order = "<" if data[:2] == b"II" else ">"
    directory = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, directory)[0]
    entry = directory + 2 + 12 * random.randrange(count)
    kind = random.randrange(5)
    if kind == 4:
        struct.pack_into(f"{order}H", data, directory, random.choice(EXTREMES) & 0xFFFF)
    elif kind < 2:
        value = random.choice(
            (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 324, 330, 338, 339, 347, 34665)
        )
        struct.pack_into(f"{order}H", data, entry + 2 * kind, random.randrange(20) if kind else value)
    else:
        struct.pack_into(f"{order}I", data, entry + 4 * (kind - 1), random.choice((*EXTREMES, 3, 4, 5, 8, 16, 32)))
    return data


GENERAL: tuple[Mutation, ...] = (truncated, flipped, extreme, spliced, lengthened)
FORMATS: dict[str, Mutation] = {"PNG": png, "JPEG": jpeg, "WEBP": webp, "BMP": bmp, "TIFF": tiff}


def mutated(form: str, sound: list[bytes], random: Random) -> Iterator[bytes]:
    """Yield damaged images without end, half of them by what their format is made of."""
    while True:
        data = bytearray(random.choice(sound))
        for _ in range(random.choice((1, 1, 1, 2))):
            mutation = FORMATS[form] if random.random() < 0.5 else random.choice(GENERAL)
            try:
                data = bytearray(mutation(data, random))
            except (struct.error, IndexError, ValueError):  # what an earlier mutation has left is too short for this one
                break
        yield bytes(data)


def sizes(file: Path) -> list[tuple[int, int]]:
    """Return the sizes of the images in a file; Pillow does not read all TIFFs that are read."""
    if file.suffix == ".tif":
        with TiffFile(file) as tiff_file, suppress(TiffFileError):
            return [(page.imagewidth, page.imagelength) for page in tiff_file.pages]
    with Image.open(file) as image:
        return [image.size]


def upscale(folder: Path, model: Path) -> int:
    """Upscale a folder to ``out`` beside it, then print what is wrong with the images written."""
    code = call("inference", "-i", folder, "-o", folder.parent / "out", "--model", model, "--engine", "torch")
    for output in sorted((folder.parent / "out").iterdir()):
        with Image.open(output) as image:
            image.load()
        if not any(sorted(image.size) == sorted(2 * side for side in size) for size in sizes(folder / output.name)):
            print(f"WRONG {output.name}: {sizes(folder / output.name)} became {image.size}")
    return code


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_images(form: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    images = mutated(form, seeds(form), campaign.random)
    suffix = {"JPEG": ".jpg", "TIFF": ".tif"}.get(form, f".{form.lower()}")
    left = campaign.count(200)
    for number in range(0, left, BATCH):
        folder = tmp_path / str(number) / "in"
        folder.mkdir(parents=True)
        names = [f"{place}{suffix}" for place in range(min(BATCH, left - number))]
        for name in names:
            (folder / name).write_bytes(next(images))
        outcome = campaign.call(partial(upscale, folder, model), memory=2 << 30)
        if outcome.verdict not in (OK, MESSAGE):
            continue  # the fixture reports it
        assert "WRONG" not in outcome.text, outcome.text[-2000:]
        written = {file.name for file in (folder.parent / "out").iterdir() if not file.name.startswith(".")}
        failed = re.findall(rf"^{re.escape(str(folder))}/(\S+): ", outcome.text, re.M)
        assert len(failed) == len(set(failed))
        assert written.isdisjoint(failed) and written.union(failed) == set(names), folder
        campaign.outcomes.update({f"{form} written": len(written), f"{form} refused": len(failed)})
