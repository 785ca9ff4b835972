"""Where image pairs come from: folders of files, LMDB, the sample photos, benchmark sets; and the cache of decoded pixels."""

from __future__ import annotations

import functools
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import lmdb
import numpy as np
import skimage
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from sr_nas.data.layouts import SCALES, by_stem, check_template, find_sets, match_names, naming_rules, read_meta_info
from sr_nas.errors import UserError, listing
from sr_nas.images.files import as_rgb, check_readable, decode, read_rgb
from sr_nas.images.folders import list_images
from sr_nas.images.resize import downscale, modcrop
from sr_nas.options.strict import ExistingFolder
from sr_nas.registry import PAIRS
from sr_nas.runs.files import ABANDONED, bytes_of, cache_folder, replacing, sweep

Image = NDArray[np.uint8]
CacheOption = bool | Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Option: whether decoded images are cached on disk; a path is the folder of the cache."""
Source = tuple[Path, str]
"""An image file and ``""``; or the ``data.mdb`` of an LMDB and the key of an image in it."""
RESIZING = "bicubic-1"
"""Part of the names of cached LR images: a new number when :func:`sr_nas.images.resize.downscale` changes a pixel."""
# Colour photos of scikit-image's wheel with detail in most of their area. The others are grey or drawn, mostly black or blurred
# (hubble_deep_field, retina), or show the same scene twice (motorcycle_right would leak one half of a split into the other).
PHOTOS = ("astronaut.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
HELD_OUT = ("chelsea.png",)
CLOCK_TICK = 10**7
"""Nanoseconds: the longest step of the clock that file systems on Linux take times of changes from."""
_ADVICE = "Free space, set SR_NAS_CACHE or cache: FOLDER to a folder on another disk, or decode each time (cache: false)."

_environments: dict[str, tuple[tuple[int, int, int], Any, int]] = {}
"""Real path of an LMDB -> (process that opened it, device and inode of its file), its environment, bytes of all its pages."""


@dataclass(frozen=True)
class Pairs:
    """An ordered set of image pairs, read when asked for. It can be pickled if its readers can.

    Attributes:
        names: one per pair, without folder and extension.
        scale: HR pixels per LR pixel and side.
        read_hr: index -> HR image as stored, uint8 [H, W, 3], RGB.
        read_lr: index -> LR image, uint8 [H // scale, W // scale, 3], RGB; ``None`` makes LR from HR.
        files: ``(HR, LR)`` of every pair as error messages name them; by default its name for both.
        mapped: the readers map files into memory, so that keeping images wins nothing.
    """

    names: list[str]
    scale: int
    read_hr: Callable[[int], Image]
    read_lr: Callable[[int], Image] | None = None
    files: Sequence[tuple[str, str]] = ()
    mapped: bool = False
    _hr_sizes: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def hr(self, index: int) -> Image:
        """HR image cropped to a multiple of the scale, uint8 [H, W, 3] RGB; a UserError if it is unreadable or too small."""
        image = self.read_hr(index)
        if min(image.shape[:2]) < self.scale:
            raise UserError(f"{self.labels(index)[0]} has {pixels(image.shape)}: too small for scale {self.scale}.")
        image = modcrop(image, self.scale)
        self._hr_sizes[index] = (image.shape[0], image.shape[1])
        return image

    def lr(self, index: int) -> Image:
        """LR image, uint8 [H / scale, W / scale, 3] RGB; a UserError if it is unreadable or not of this size."""
        if self.read_lr is None:
            return downscale(self.hr(index), self.scale)
        image = self.read_lr(index)
        # HR is decoded for its size alone only if nobody asked for it before.
        height, width = self._hr_sizes[index] if index in self._hr_sizes else self.hr(index).shape[:2]
        expected = (height // self.scale, width // self.scale)
        if image.shape[:2] != expected:
            hr_label, lr_label = self.labels(index)
            raise UserError(
                f"LR {lr_label} has {pixels(image.shape)}, HR {hr_label} has {pixels((height, width))} "
                f"after cropping to a multiple of the scale: at scale {self.scale} LR must have {pixels(expected)}. "
                "Check the scale, and that HR and LR are of the same set."
            )
        return image

    @property
    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes of the files of a pair, ``None`` where they are unknown."""
        return {name: bytes_of(*self.labels(index)) for index, name in enumerate(self.names)}

    def labels(self, index: int) -> tuple[str, str]:
        """Return the names of the HR and LR image in messages."""
        return self.files[index] if self.files else (self.names[index], self.names[index])


def pixels(shape: Sequence[int]) -> str:
    """Return ``"WIDTHxHEIGHT pixels"`` for an array shape that begins with height and width."""
    return f"{shape[1]}x{shape[0]} pixels"


@dataclass(frozen=True)
class CachedImages:
    """Reads images through ``.npy`` files that are mapped into memory: a patch reads only the rows it lies on.

    An entry is named after its source file and that file's state: size, inode, times of its content and of its last change of
    any kind. The latter tell a replacement that keeps size and modification time, as ``cp -p`` and archives do. Pixels of another
    state are never returned, and are deleted when new ones are written. Processes may share a cache.

    Attributes:
        folder: of the cache.
        sources: where each image comes from.
        variant: what is made of a source, such as ``"hr"`` or ``"x2"``; a part of file names.
        read: index -> uint8 [H, W, 3]; called where the cache has no entry, or a damaged one.
        mapped: return a view of the file instead of a copy in memory.
    """

    folder: Path
    sources: Sequence[Source]
    variant: str
    read: Callable[[int], Image]
    mapped: bool = True

    def __call__(self, index: int) -> Image:
        """Return an image, read-only where it is mapped; a UserError if its source is gone or cannot be read."""
        entry = self._entry(index)
        try:
            return np.asarray(np.load(entry, mmap_mode="r" if self.mapped else None, allow_pickle=False))
        except (OSError, ValueError, EOFError):  # not there, or not whole
            image = self.read(index)
        self._write(entry, image)
        return image

    def _entry(self, index: int) -> Path:
        source = self.sources[index][0]
        try:
            state = source.stat()
        except OSError as error:
            raise UserError(f"{source} cannot be read any more: {error.strerror}.") from error
        if abs(time.time_ns() - state.st_ctime_ns) < CLOCK_TICK:
            time.sleep(CLOCK_TICK / 1e9)  # a change within the tick of the last one would leave no trace
        numbers = (state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
        return self.folder / _digest(self.sources[index]) / f"{self.variant}-{'-'.join(map(str, numbers))}.npy"

    def _write(self, entry: Path, image: Image) -> None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            sweep(entry.parent, ABANDONED)
            with suppress(FileNotFoundError), replacing(entry) as temporary:  # the cache may be deleted at any time, also now
                np.save(temporary, image)
            for outdated in entry.parent.glob(f"{self.variant}-*.npy"):
                if outdated != entry:
                    outdated.unlink(missing_ok=True)
        except OSError as error:
            _warn(self.folder, error.strerror or str(error))


@functools.lru_cache(maxsize=2**17)  # a fifth of the time of a patch
def _digest(source: Source) -> str:
    path, key = source
    return hashlib.sha256(f"{path.resolve()}\n{key}".encode(errors="surrogateescape")).hexdigest()[:40]


@functools.cache  # once in each process, not for every image
def _warn(folder: Path, reason: str) -> None:
    warnings.warn(f"pixels cannot be kept in {folder} ({reason}): images are decoded each time. {_ADVICE}", stacklevel=4)


def make_pairs(
    names: list[str], hr: Sequence[Source], lr: Sequence[Source] | None, scale: int, cache: bool | str = False
) -> Pairs:
    """Return pairs of images in files or LMDBs, in the order of ``names``.

    Without ``lr``, LR images are made from HR by :func:`sr_nas.images.resize.downscale`, and always cached. ``cache`` says
    whether, or in what folder, the decoded pixels of HR and LR files are cached too.

    Raises:
        UserError: a file cannot be read, or the pixels cannot be cached.
    """
    check_readable(str(path) for path, _ in (*hr, *(lr or ())))
    folder = _open_cache(cache) if cache or lr is None else None
    read_hr: Callable[[int], Image] = partial(_read, hr)
    read_lr: Callable[[int], Image] = partial(_read, lr or ())
    if folder and cache:
        read_hr = CachedImages(folder, hr, "hr", read_hr)
    if folder and lr is None:
        read_lr = CachedImages(folder, hr, f"x{scale}-{RESIZING}", partial(_make_lr, read_hr, scale), mapped=bool(cache))
    elif folder and lr is not None:
        read_lr = CachedImages(folder, lr, "lr", read_lr)
    files = [(_label(one), _label(other)) for one, other in zip(hr, lr or hr, strict=True)]
    return Pairs(names, scale, read_hr, read_lr, files, mapped=bool(cache))


def _open_cache(option: bool | str) -> Path:
    try:
        folder = cache_folder("pixels") if isinstance(option, bool) else Path(option)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"pixels cannot be kept in the cache: {error}. {_ADVICE}") from error
    return folder


def _label(source: Source) -> str:
    path, key = source
    return f"'{key}' of {path.parent}" if key else str(path)


# Module-level functions, not closures: the readers are pickled to the loader's worker processes.
def _read(sources: Sequence[Source], index: int) -> Image:
    path, key = sources[index]
    return _read_lmdb(path.parent, key) if key else read_rgb(path)


def _make_lr(read_hr: Callable[[int], Image], scale: int, index: int) -> Image:
    return downscale(read_hr(index), scale)


def _read_lmdb(folder: Path, key: str) -> Image:
    try:
        with open_lmdb(folder).begin() as transaction:
            value = transaction.get(key.encode())
    except lmdb.Error as error:
        raise UserError(f"{folder} cannot be read as LMDB: {error}.") from error
    if value is None:
        raise UserError(f"{folder} has no image '{key}', which its meta_info.txt lists: was it written to the end?")
    try:
        return as_rgb(decode(value))
    except UserError as error:
        raise UserError(f"cannot read the image '{key}' of {folder}: {error}") from error


def open_lmdb(folder: Path) -> Any:
    """Return the environment of an LMDB, opened once in each process: a forked one must not use its parent's.

    Raises:
        UserError: it cannot be opened, or its file is cut off, where reading the missing pages would end the process.
    """
    place = os.path.realpath(folder)
    try:
        state = os.stat(os.path.join(place, "data.mdb"))
        identity = (os.getpid(), state.st_dev, state.st_ino)
        before, environment, size = _environments.get(place, (None, None, 0))
        if before != identity:
            if environment is not None:
                environment.close()  # this process's copy, beside which LMDB refuses a second one of the same file
            environment = lmdb.open(os.fsencode(place), readonly=True, lock=False, readahead=False, meminit=False)
            size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            _environments[place] = identity, environment, size
    except (lmdb.Error, OSError) as error:
        raise UserError(f"{folder} cannot be read as LMDB: {error}.") from error
    if state.st_size < size:
        raise UserError(f"{folder} is cut off: its data.mdb has {state.st_size:,} of {size:,} bytes. Copy or write it again.")
    return environment


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Folders = Annotated[
    list[ExistingFolder],
    Field(min_length=1),
    BeforeValidator(_as_list, json_schema_input_type=ExistingFolder | list[ExistingFolder]),
]
"""Folders whose images are read as one set; an option file may name a single one without brackets."""


@PAIRS.register("folder")
def folder(
    dataroot_gt: Folders,
    dataroot_lq: Folders | None = None,
    filename_tmpl: Annotated[str, AfterValidator(check_template)] = "{}",
    cache: CacheOption = False,
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
    if dataroot_lq is None and filename_tmpl != "{}":
        raise UserError(f"filename_tmpl '{filename_tmpl}' names LR images, but no dataroot_lq says where they lie.")
    if dataroot_lq is not None and len(dataroot_lq) != len(dataroot_gt):
        raise UserError(
            f"dataroot_gt names {len(dataroot_gt)} folders, dataroot_lq {len(dataroot_lq)}: they go together one by one."
        )
    hr: list[Source] = []
    lr: list[Source] = []
    remedy = ", or set filename_tmpl to the names' pattern, such as '{}_lr'"
    for hr_folder, lr_folder in zip_longest(dataroot_gt, dataroot_lq or ()):
        hr_files = by_stem(list_images(Path(hr_folder)))
        hr += [(file, "") for file in hr_files.values()]
        if lr_folder is not None:
            lr += _matching(hr_files, by_stem(list_images(Path(lr_folder))), naming_rules(filename_tmpl, scale), remedy)
    names = [file.stem for file, _ in hr]
    if len(set(names)) < len(names):  # two folders have images of one name
        names = [str(file.with_suffix("")) for file, _ in hr]
    return make_pairs(names, hr, lr if dataroot_lq else None, scale, cache)


def _matching(hr: dict[str, Path], lr: dict[str, Path], rules: list[str], remedy: str = "") -> list[Source]:
    """Return the LR images of HR images, in their order; a UserError if they do not pair up."""
    hr_folder, lr_folder = (str(next(iter(files.values())).parent) for files in (hr, lr))
    return [(lr[name], "") for name in match_names(list(hr), list(lr), rules, hr_folder, lr_folder, remedy)]


@PAIRS.register("lmdb")
def lmdb_pairs(
    dataroot_gt: ExistingFolder, dataroot_lq: ExistingFolder | None = None, cache: CacheOption = False, *, scale: int
) -> Pairs:
    """LMDB folders as BasicSR's tools write them, with or without LR.

    Args:
        dataroot_gt: LMDB folder of the HR images.
        dataroot_lq: LMDB folder of the LR images, with the same keys or with ``x<scale>`` behind them; else as in a folder.
        cache: as in a folder: LMDB saves opening files, but no part of the PNG images in it can be decoded alone.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: a folder is not such an LMDB, HR and LR do not pair up, or the cache cannot be used.
    """
    hr_keys, lr = _lmdb_keys(dataroot_gt), None
    if dataroot_lq is not None:
        lr_keys = match_names(hr_keys, _lmdb_keys(dataroot_lq), naming_rules("{}", scale), dataroot_gt, dataroot_lq)
        lr = [(Path(dataroot_lq, "data.mdb"), key) for key in lr_keys]
    return make_pairs(hr_keys, [(Path(dataroot_gt, "data.mdb"), key) for key in hr_keys], lr, scale, cache)


def _lmdb_keys(folder: str) -> list[str]:
    meta_info = Path(folder, "meta_info.txt")
    if not meta_info.is_file():
        raise UserError(f"{folder} has no meta_info.txt: is it an LMDB folder in BasicSR's layout?")
    keys = list(read_meta_info(meta_info, strip_folders=False))
    if not keys:
        raise UserError(f"{meta_info} lists no images.")
    open_lmdb(Path(folder))  # before anything is read
    return keys


@PAIRS.register("sample")
def sample(held_out: bool = False, *, scale: int) -> Pairs:
    """Photos that ship with scikit-image, five for training and one held out; nothing is downloaded.

    Args:
        held_out: only the held-out photo, for validation.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: the installed scikit-image lacks one of the photos.
    """
    files = [Path(skimage.__file__).parent / "data" / name for name in (HELD_OUT if held_out else PHOTOS)]
    for file in files:
        if not file.is_file():
            raise UserError(f"the sample photo {file} is missing: the wheels of scikit-image 0.22 and later hold it.")
    return make_pairs([file.stem for file in files], [(file, "") for file in files], None, scale)


def benchmark_set(path: Path, scale: int, lr_folder: Path | None = None) -> tuple[str, Pairs, Path | None]:
    """Open ``sample``, the held-out photo, or a benchmark set in any layout (:func:`sr_nas.data.layouts.find_sets`).

    Returns:
        ``(name, pairs, lr_folder)``; the folder is the layout's where none is passed; ``None``: LR is made from HR.

    Raises:
        UserError: no set is there, or several; HR and LR do not pair up.
    """
    if str(path) == "sample" and not path.is_dir():
        if lr_folder is not None:
            raise UserError("--lr names LR images, but those of the sample photo are made from it.")
        return "sample", sample(held_out=True, scale=scale), None
    first, *others = find_sets(path, {*SCALES, scale})
    if others:
        raise UserError(f"{path} holds {listing([first.name, *(other.name for other in others)])}: name the HR folder of one.")
    hr = first.hr_at(scale)
    lr = by_stem(list_images(lr_folder)) if lr_folder else first.lr.get(scale)
    partners = _matching(hr, lr, naming_rules("{}", scale)) if lr else None
    pairs = make_pairs(list(hr), [(file, "") for file in hr.values()], partners, scale)
    return first.name, pairs, next(iter(lr.values())).parent if lr else None
