"""A folder of images as one LMDB in BasicSR's layout."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sr_nas.data.pairing import by_stem, common_scale
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_image
from sr_nas.preparation.made_of import NOTE, note_of, read_note
from sr_nas.preparation.placing import unfinished
from sr_nas.preparation.processes import in_processes
from sr_nas.runs.files import write_json, write_text

META = "meta_info.txt"
LONGEST_KEY = 511
"""Bytes; LMDB's limit."""
BATCH = 64 * 2**20
"""Bytes that are written in one transaction."""


class Packed(NamedTuple):
    """What became of an LMDB.

    Attributes:
        images: how many are in it.
        now: whether they were written now; else the LMDB of the same images was there and is kept.
        scale: whose ``x2`` or the like all names ended in, which their keys do not; ``None`` where they did not.
    """

    images: int
    now: bool
    scale: int | None


def write_lmdb(
    source: Path, output: Path, compression: int, workers: int, report: Callable[[int, int], None] = lambda done, total: None
) -> Packed:
    """Write the images of a folder into an LMDB, as PNG files under their names without extension. LR images that
    are all named as DIV2K's (``0001x2``) go under the names of HR: basicsr wants the keys of both to be the same.

    Its map is as large as the data, and ``meta_info.txt`` lists name, (height,width,channels) and compression of each. Grey,
    RGB, RGBA, 8 and 16 bits stay what they are; grey with alpha becomes RGBA. The folder appears once all is written.

    Args:
        source: folder of images.
        output: the LMDB folder; its name ends in ``.lmdb``, which basicsr insists on.
        compression: of PNG, 0..9; what it saves in size it costs in time, of reading too.
        workers: processes that encode.
        report: told how many images of how many are written.

    Raises:
        UserError: two images have one name, an image cannot be read, the output exists and is something else,
            the disk is too small, or another run is writing to the output.
    """
    if output.suffix != ".lmdb":
        raise UserError(f"{output}: the folder's name must end in .lmdb, or basicsr does not read it.")
    images = by_stem(list_images(source))
    scale = common_scale(images)
    if scale is not None:
        images = {name.removesuffix(f"x{scale}"): file for name, file in images.items()}
    for key, file in images.items():
        if len(key.encode()) > LONGEST_KEY or "\n" in key:
            raise UserError(f"the name of {file} is no key of LMDB: at most {LONGEST_KEY} bytes, without line breaks.")
    note = note_of({"images": str(source.resolve())}, {key: [file] for key, file in images.items()})
    with unfinished(output) as folder:
        if output.exists():
            _check_same(output, note, source)
            return Packed(len(images), False, scale)
        _fill(folder, images, compression, workers, report)
        write_json(folder / NOTE, note)
        os.rename(folder, output)
    return Packed(len(images), True, scale)


def _fill(folder: Path, images: dict[str, Path], compression: int, workers: int, report: Callable[[int, int], None]) -> None:
    import lmdb

    lines: list[str] = []
    batch: list[tuple[str, bytes]] = []
    encoded = in_processes(partial(_encode, compression), list(images.values()), workers)
    try:
        with lmdb.open(str(folder), map_size=2**20) as environment:
            for key, (data, shape) in zip(images, encoded, strict=True):
                batch.append((key, data))
                lines.append(f"{key}.png ({shape[0]},{shape[1]},{shape[2]}) {compression}\n")
                if sum(len(data) for _, data in batch) >= BATCH:
                    _commit(environment, batch)
                    report(len(lines), len(images))
            _commit(environment, batch)
            report(len(lines), len(images))
            environment.sync(True)
    except lmdb.Error as error:
        raise UserError(f"{folder.parent} cannot be written to: {error}. Is the disk full?") from error
    write_text(folder / META, "".join(lines))


def _commit(environment: object, batch: list[tuple[str, bytes]]) -> None:
    """Write a batch in one transaction, into a map that is made large enough first: values lie on pages of their own."""
    from lmdb import Environment

    assert isinstance(environment, Environment)
    page = environment.stat()["psize"]
    used = (environment.info()["last_pgno"] + 1) * page
    # Of each image the pages of its value, half-empty ones and those of the tree; and some that a transaction replaces.
    needed = sum(-(-(len(data) + 16) // page) + 2 for _, data in batch) * page + 256 * page
    environment.set_mapsize(used + needed)
    folder = Path(environment.path())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{len(batch)} more images need {needed:,} bytes, {folder.parent} has {free:,} left.")
    with environment.begin(write=True) as transaction:
        for key, data in batch:
            if not transaction.put(key.encode(), data, overwrite=False):
                raise UserError(f"the key '{key}' is there twice.")
    batch.clear()


def _encode(compression: int, file: Path) -> tuple[bytes, tuple[int, ...]]:
    pixels = read_image(file)
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    swapped = np.ascontiguousarray(pixels[..., order])
    done, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    if not done:
        raise UserError(f"{file} cannot be written as PNG: {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    return data.tobytes(), swapped.shape


def _check_same(output: Path, note: dict[str, Any], source: Path) -> None:
    import lmdb

    meta = output / META
    if meta.is_file() and (output / "data.mdb").is_file() and read_note(output) == note:
        keys = re.findall(r"^(.+)\.png \(", meta.read_text(encoding="utf-8"), re.MULTILINE)
        with lmdb.open(str(output), readonly=True, lock=False) as environment:
            if keys == list(note["sources"]) and environment.stat()["entries"] == len(keys):
                return
    raise UserError(f"{output} exists, and is not the LMDB of {source} as it is now. Remove it, or choose another name.")
