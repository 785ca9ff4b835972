"""Images in LMDB, in BasicSR's layout: ``data.mdb`` with encoded PNG files, and ``meta_info.txt`` that lists the keys."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sr_nas.data.pairing import match_names, naming_rules
from sr_nas.data.pairs import Image, Pairs
from sr_nas.data.pixel_cache import PixelCache, cached
from sr_nas.errors import UserError, listing
from sr_nas.images.decode import decode
from sr_nas.images.files import as_rgb
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import PAIRS

if TYPE_CHECKING:
    from lmdb import Environment


@PAIRS.register("lmdb")
def lmdb_pairs(
    dataroot_gt: ExistingFolder, dataroot_lq: ExistingFolder | None = None, cache: PixelCache = False, *, scale: int
) -> Pairs:
    """LMDB folders as BasicSR's tools write them, with or without LR.

    Args:
        dataroot_gt: LMDB folder of the HR images.
        dataroot_lq: LMDB folder of the LR images, with the same keys or with ``x<scale>`` behind them. Without it LR is
            made from HR as MATLAB's bicubic ``imresize`` does, each time it is read: only ``cache`` writes to disk.
        cache: keep the decoded pixels of both, as ``cache`` of ``type: folder`` does: LMDB saves opening files, but the
            images in it are PNG, of which no part can be decoded alone.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: a folder is not such an LMDB, HR and LR do not pair up, or the cache cannot be used.
    """
    sizes = _sizes(dataroot_gt)
    keys = list(sizes)
    read_hr = partial(_read, dataroot_gt, keys)
    origins = [(Path(dataroot_gt) / "data.mdb", key) for key in keys]
    if dataroot_lq is None:
        files = [f"'{key}' of {dataroot_gt}" for key in keys]
        pairs = Pairs(keys, scale, read_hr, None, list(zip(files, files, strict=True)))
        return cached(pairs, origins, None, cache, lambda index: sizes[keys[index]])
    lr_keys = match_names(keys, list(_sizes(dataroot_lq)), naming_rules("{}", scale), dataroot_gt, dataroot_lq)
    named = [(f"'{hr}' of {dataroot_gt}", f"'{lr}' of {dataroot_lq}") for hr, lr in zip(keys, lr_keys, strict=True)]
    pairs = Pairs(keys, scale, read_hr, partial(_read, dataroot_lq, lr_keys), named)
    lr_origins = [(Path(dataroot_lq) / "data.mdb", key) for key in lr_keys]
    return cached(pairs, origins, lr_origins, cache, lambda index: sizes[keys[index]])


def _sizes(folder: str) -> dict[str, tuple[int, int]]:
    """Return key -> (height, width) as ``meta_info.txt`` lists them: ``0001.png (480,480,3) 1``, the key before ``.png``."""
    listed = Path(folder) / "meta_info.txt"
    if not listed.is_file():
        raise UserError(f"{folder} has no meta_info.txt: is it an LMDB folder in BasicSR's layout?")
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{listed} is no text in UTF-8: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        entry = re.fullmatch(r"(.+)\.\w+ \((\d+),(\d+),\d+\) \d+", line.rstrip())
        if entry is None:
            raise UserError(f"{listed}, line {number}: '{line}' is not of the form '0001.png (480,480,3) 1'.")
        found.append((entry[1], (int(entry[2]), int(entry[3]))))
    if not found:
        raise UserError(f"{listed} lists no images.")
    repeated = [key for key, times in Counter(key for key, _ in found).items() if times > 1]
    if repeated:
        raise UserError(f"{listed} lists more than once: {listing(repeated, 10)}.")
    return dict(found)


def _read(folder: str, keys: list[str], index: int) -> Image:
    import lmdb

    key = keys[index]
    try:
        with _environment(folder).begin() as transaction:
            value = transaction.get(key.encode())
    except lmdb.Error as error:
        raise UserError(f"{folder} cannot be read as LMDB: {error}.") from error
    if value is None:
        raise UserError(f"{folder} has no image '{key}', which its meta_info.txt lists: was it written to the end?")
    try:
        return as_rgb(decode(value))
    except UserError as error:
        raise UserError(f"cannot read the image '{key}' of {folder}: {error}") from error


# Real path -> the process that opened it, and what it opened.
_open: dict[str, tuple[int, Environment]] = {}


def _environment(folder: str) -> Environment:
    """Return the LMDB of a folder, opened once in each process: what a parent opened must not be used after a fork."""
    import lmdb

    place = os.path.realpath(folder)
    owner, environment = _open.get(place, (None, None))
    if environment is None or owner != os.getpid():
        if environment is not None:
            # Closes this process's copy; while it is open LMDB refuses a second one of the same file.
            environment.close()
        environment = lmdb.open(place, readonly=True, lock=False, readahead=False, meminit=False)
        _open[place] = (os.getpid(), environment)
    return environment
