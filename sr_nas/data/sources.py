"""Pairs of image files."""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sr_nas.data.cache import PixelCache, cached, cached_lr
from sr_nas.data.pairs import Image, Pairs, by_stem, check_template, match_names, naming_rules
from sr_nas.errors import UserError, listing
from sr_nas.images.decode import decode
from sr_nas.images.files import as_rgb, image_size, list_images, read_rgb
from sr_nas.images.resize import downscale
from sr_nas.options.strict import ExistingFolder
from sr_nas.registry import PAIRS

if TYPE_CHECKING:
    from lmdb import Environment


def file_pairs(
    names: Iterable[str], hr: Sequence[Path], lr: Sequence[Path] | None, scale: int, cache: PixelCache = False
) -> Pairs:
    """Return the pairs of these image files.

    Args:
        names: what to call each pair.
        hr: the HR images, in the order of the names.
        lr: the LR images in the same order; ``None`` makes each from its HR image by
            :func:`sr_nas.images.resize.downscale` and keeps it in the disk cache.
        scale: HR pixels per LR pixel and side.
        cache: whether, or where, the pixels of both are kept too (:func:`sr_nas.data.cache.cached`).

    Raises:
        UserError: the pixel cache cannot be used.
    """
    read_lr = partial(_downscaled, hr, scale) if lr is None else partial(_read, lr)
    shown = [(str(one), str(other)) for one, other in zip(hr, hr if lr is None else lr, strict=True)]
    pairs = Pairs(list(names), scale, partial(_read, hr), read_lr, shown)
    own_lr = None if lr is None else [(path, "") for path in lr]
    return cached(pairs, [(path, "") for path in hr], own_lr, cache, lambda index: _size(hr[index]))


def _size(file: Path) -> tuple[int, int] | None:
    try:
        return image_size(file)
    except UserError:
        return None


# Functions of the module, not closures: what reads the images is pickled to the loader's worker processes.
def _read(files: Sequence[Path], index: int) -> Image:
    return read_rgb(files[index])


def _downscaled(files: Sequence[Path], scale: int, index: int) -> Image:
    return cached_lr(files[index], scale, lambda: downscale(read_rgb(files[index]), scale))


# MERGED sr_nas.data.sources: Images in folders: HR alone, or HR and LR paired by name.


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Folders = Annotated[
    list[ExistingFolder],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=ExistingFolder | list[ExistingFolder]),
]
"""Folders whose images are read as one set; an option file may name a single one without brackets."""

_TEMPLATE = ", or set filename_tmpl to the names' pattern, such as '{}_lr'"


@PAIRS.register("folder")
def folder(
    dataroot_gt: Folders,
    dataroot_lq: Folders | None = None,
    filename_tmpl: Annotated[str, AfterValidator(check_template)] = "{}",
    cache: PixelCache = False,
    *,
    scale: int,
) -> Pairs:
    """Folders of HR images, with or without folders of LR images.

    Args:
        dataroot_gt: folder or folders of the HR images.
        dataroot_lq: folders of the LR images, one per HR folder. Without them LR is made from HR as MATLAB's bicubic
            ``imresize`` does, and kept in the disk cache.
        filename_tmpl: LR name for an HR name ``{}``, both without extension. By default LR has the name of HR, or that
            and ``x<scale>`` (``0001x2``).
        cache: keep the decoded pixels of both on disk, 3 bytes a pixel, and read patches from there instead of decoding an
            image for each: ``true`` in the cache folder, a path in that folder. Worth it for sets that do not fit into memory.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: a folder has no images or two of one name, HR and LR do not pair up, or the cache cannot be used.
    """
    if len({Path(place).resolve() for place in dataroot_gt}) != len(dataroot_gt):
        raise UserError(f"dataroot_gt names one folder twice: {listing(dataroot_gt)}.")
    if dataroot_lq is None:
        if filename_tmpl != "{}":
            raise UserError(f"filename_tmpl '{filename_tmpl}' names LR images, but no dataroot_lq says where they lie.")
        files = [file for place in dataroot_gt for file in _images(place).values()]
        return file_pairs(_names(files), files, None, scale, cache)
    if len(dataroot_lq) != len(dataroot_gt):
        raise UserError(
            f"dataroot_gt names {len(dataroot_gt)} folders, dataroot_lq {len(dataroot_lq)}: they go together one by one."
        )
    hr_files, lr_files = [], []
    for hr_place, lr_place in zip(dataroot_gt, dataroot_lq, strict=True):
        hr, lr = _images(hr_place), _images(lr_place)
        matched = match_names(list(hr), list(lr), naming_rules(filename_tmpl, scale), hr_place, lr_place, _TEMPLATE)
        hr_files += list(hr.values())
        lr_files += [lr[name] for name in matched]
    return file_pairs(_names(hr_files), hr_files, lr_files, scale, cache)


def _names(files: list[Path]) -> list[str]:
    """What to call the images: their names without extension, or their paths where two folders have one of a name."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file.with_suffix("")) for file in files]


def _images(place: str) -> dict[str, Path]:
    return by_stem(list_images(Path(place)))


# MERGED sr_nas.data.sources: Images in LMDB, in BasicSR's layout: ``data.mdb`` with encoded PNG files, and
# ``meta_info.txt`` that lists the keys.


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
    read_hr = partial(_lmdb_read, dataroot_gt, keys)
    origins = [(Path(dataroot_gt) / "data.mdb", key) for key in keys]
    if dataroot_lq is None:
        files = [f"'{key}' of {dataroot_gt}" for key in keys]
        pairs = Pairs(keys, scale, read_hr, None, list(zip(files, files, strict=True)))
        return cached(pairs, origins, None, cache, lambda index: sizes[keys[index]])
    lr_keys = match_names(keys, list(_sizes(dataroot_lq)), naming_rules("{}", scale), dataroot_gt, dataroot_lq)
    named = [(f"'{hr}' of {dataroot_gt}", f"'{lr}' of {dataroot_lq}") for hr, lr in zip(keys, lr_keys, strict=True)]
    pairs = Pairs(keys, scale, read_hr, partial(_lmdb_read, dataroot_lq, lr_keys), named)
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


def _lmdb_read(folder: str, keys: list[str], index: int) -> Image:
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


# MERGED sr_nas.data.sources: A few photos that every installation has: they lie in scikit-image's wheel.
# For first steps, tests and pictures.


# Colour photos with detail in most of their area. The others of the wheel are grey or drawn, show the same scene twice
# (motorcycle_right would leak one half of a split into the other), or are mostly black or blurred (hubble_deep_field, retina).
PHOTOS = ("astronaut.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
HELD_OUT = ("chelsea.png",)


@PAIRS.register("sample")
def sample(held_out: bool = False, *, scale: int) -> Pairs:
    """Photos that ship with scikit-image, five for training and one held out; nothing is downloaded.

    Args:
        held_out: only the held-out photo, for validation.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: scikit-image is not installed, or lacks one of the photos.
    """
    # Not importlib.resources, which would import the package.
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise UserError("the sample photos come with scikit-image, which is not installed: pip install 'scikit-image>=0.22'.")
    folder = Path(found.submodule_search_locations[0]) / "data"
    files = [folder / name for name in (HELD_OUT if held_out else PHOTOS)]
    for file in files:
        if not file.is_file():
            raise UserError(f"the sample photo {file} is missing: the wheels of scikit-image 0.22 and later hold it.")
    return file_pairs([file.stem for file in files], files, None, scale)
