"""LR images of a folder of HR images, in DIV2K's layout."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sr_nas.data.pairs import by_stem, common_scale, match_names, naming_rules
from sr_nas.errors import UserError
from sr_nas.images.files import image_size, list_images, read_image, read_rgb, whole_png_size, write_image
from sr_nas.images.resize import downscale
from sr_nas.preparation.outputs import (
    NOTE,
    Outcome,
    alone,
    changed,
    in_processes,
    note_of,
    read_note,
    refuse_overlap,
    renew,
    unfinished,
)
from sr_nas.runs.files import sweep, write_json, write_text


def lr_targets(output: Path, name: str, scales: Sequence[int]) -> dict[int, Path]:
    """Return scale -> ``X<scale>/<name>x<scale>.png``, as DIV2K names its LR images."""
    return {scale: output / f"X{scale}" / f"{name}x{scale}.png" for scale in scales}


def make_lr(hr: Path, output: Path, scales: Sequence[int], workers: int) -> tuple[int, Iterator[Outcome]]:
    """Make the LR images of every image in a folder as MATLAB's ``imresize`` does (:func:`sr_nas.images.resize.downscale`).

    They are 8-bit RGB, as the images that training and evaluation make of HR without LR. Whole images that are there
    are kept, unless their HR image is another one since.

    Args:
        hr: folder of HR images.
        output: folder for ``X2/NAMEx2.png`` and so on.
        scales: HR pixels per LR pixel and side.
        workers: processes.

    Returns:
        How many HR images there are, and what became of each, in the order of their names.

    Raises:
        UserError: ``hr`` holds no images, or two of one name; ``output`` is ``hr``, holds LR images of another folder, or is
            written to by another run.
    """
    images = by_stem(list_images(hr))
    return len(images), _make_all(hr, images, output, scales, workers)


def _make_all(hr: Path, images: dict[str, Path], output: Path, scales: Sequence[int], workers: int) -> Iterator[Outcome]:
    note = note_of({"hr": str(hr.resolve())}, {name: [file] for name, file in images.items()})
    with alone(output):
        for scale in scales:
            folder = output / f"X{scale}"
            refuse_overlap(folder, [hr])
            renew(folder, note, changed(folder, note), rf"(.+)x{scale}\.png")
            sweep(folder)
        jobs = [(file, lr_targets(output, name, scales)) for name, file in images.items()]
        yield from in_processes(_make, jobs, workers)


def _make(job: tuple[Path, Mapping[int, Path]]) -> Outcome:
    file, targets = job
    read = cache(partial(read_rgb, file))
    done = [_make_one(file, read, scale, target) for scale, target in targets.items()]
    failures = dict.fromkeys(text for text in done if isinstance(text, str))
    return Outcome(file, done.count(True), done.count(False), "\n".join(failures))


def _make_one(file: Path, read: Callable[[], np.ndarray], scale: int, target: Path) -> bool | str:
    """Return whether the image had to be written, or why it could not be."""
    try:
        if whole_png_size(target) is not None:
            return False
        write_image(target, downscale(read(), scale))
        return True
    except UserError as error:
        text = str(error)
        return text if str(file) in text else f"{file}: {text}"


# MERGED sr_nas.preparation.generate: Sub-images of HR and LR together, cut at the same places, for faster reading
# in training.


@dataclass(frozen=True)
class Grid:
    """Where sub-images are cut.

    Attributes:
        size: height and width of an HR sub-image, in HR pixels.
        step: from one to the next, in HR pixels.
        scales: of the LR sub-images.
    """

    size: int
    step: int
    scales: tuple[int, ...]

    @property
    def unit(self) -> int:
        """HR pixels that are whole LR pixels at every scale."""
        return math.lcm(*self.scales)

    def check(self) -> None:
        """Raise a UserError if a sub-image would not be whole LR pixels at every scale."""
        for name, value in (("size", self.size), ("step", self.step)):
            if value < 1 or value % self.unit:
                near = max(self.unit, round(value / self.unit) * self.unit)
                scales = ", ".join(map(str, self.scales))
                raise UserError(f"--{name} {value} must be a multiple of {self.unit}, for scales {scales}: for example {near}.")

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the top left corners in HR pixels, row by row, of an image of this size.

        The last row and column end where the image does, cropped to whole LR pixels, so that nothing of it is lost.

        Raises:
            UserError: the image is smaller than a sub-image.
        """
        if min(height, width) // self.unit * self.unit < self.size:
            raise UserError(
                f"it has {width}x{height} pixels, too few for sub-images of {self.size}. Lower --size or take it out."
            )
        return [(top, left) for top in self._along(height) for left in self._along(width)]

    def _along(self, length: int) -> list[int]:
        last = length // self.unit * self.unit - self.size
        starts = list(range(0, last + 1, self.step))
        return starts if starts[-1] == last else [*starts, last]


@dataclass(frozen=True)
class _Job:
    name: str
    hr: Path
    lr: dict[int, Path]


def crop(hr: Path, lr: Path | None, output: Path, grid: Grid, workers: int) -> tuple[int, Iterator[Outcome]]:
    """Cut a folder of HR images and their LR images into ``HR/NAME_s001.png`` and ``LR/X2/NAME_s001.png``, counted by rows.

    They are 8-bit RGB. Whole sub-images that are there are kept, unless what they are cut from is another image
    since: then all sub-images of the old one go.

    Args:
        hr: folder of HR images.
        lr: folder of the LR images: it holds ``X2`` and so on, or the images themselves where there is one scale. ``None``
            makes LR of the whole HR image by :func:`sr_nas.images.resize.downscale`, which a cut leaves as it is.
        output: folder for the sub-images, made where it is missing.
        grid: where to cut.
        workers: processes.

    Returns:
        How many HR images there are, and what became of each, in the order of their names.

    Raises:
        UserError: size or step do not fit the scales, HR and LR do not pair up, the output folder was cut in another way
            or from other folders, or another run is writing to it.
    """
    grid.check()
    images = by_stem(list_images(hr))
    pairs: dict[str, dict[int, Path]] = {name: {} for name in images}
    places = {} if lr is None else {scale: _lr_folder(lr, scale, grid.scales) for scale in grid.scales}
    for scale, place in places.items():
        found = by_stem(list_images(place))
        names = match_names(list(images), list(found), naming_rules("{}", scale), str(hr), str(place))
        for name, partner in zip(images, names, strict=True):
            pairs[name][scale] = found[partner]
    jobs = [_Job(name, file, pairs[name]) for name, file in images.items()]
    return len(jobs), _crop_all(jobs, hr, places, output, grid, workers)


def _crop_all(
    jobs: Sequence[_Job], hr: Path, places: dict[int, Path], output: Path, grid: Grid, workers: int
) -> Iterator[Outcome]:
    made = {**asdict(grid), "scales": list(grid.scales), "hr": str(hr.resolve())}
    notes = {output / "HR": note_of(made, {job.name: [job.hr] for job in jobs})}
    for scale in grid.scales:
        lr = str(places[scale].resolve()) if scale in places else "made of hr"
        sources = {job.name: [job.hr, job.lr[scale]] if scale in places else [job.hr] for job in jobs}
        notes[output / "LR" / f"X{scale}"] = note_of({**made, "lr": lr}, sources)
    with alone(output):
        for folder in notes:
            refuse_overlap(folder, [hr, *places.values()])
        outdated = {folder: changed(folder, note) for folder, note in notes.items()}
        for folder, note in notes.items():
            renew(folder, note, outdated[folder], r"(.+)_s\d{3,}\.png")
            sweep(folder)
        yield from in_processes(partial(_crop, output, grid), jobs, workers)


def _lr_folder(lr: Path, scale: int, scales: Sequence[int]) -> Path:
    tried = [lr / f"X{scale}", lr / f"x{scale}"]
    for folder in tried:
        if folder.is_dir():
            return folder
    if len(scales) == 1:
        return lr
    raise UserError(f"{lr} has no LR images of scale {scale}: tried {tried[0]} and {tried[1]}.")


def _crop(output: Path, grid: Grid, job: _Job) -> Outcome:
    folders = {1: output / "HR"} | {scale: output / "LR" / f"X{scale}" for scale in grid.scales}
    try:
        height, width = image_size(job.hr)
        places = grid.places(height, width)
        missing = _missing(folders, job, places)
        hr = read_rgb(job.hr) if missing else np.empty((height, width))
        if hr.shape[:2] != (height, width):  # the pixels say where to cut, whatever the header does
            places = grid.places(*hr.shape[:2])
            missing = _missing(folders, job, places)
        for scale, wanted in missing.items():
            image = hr if scale == 1 else _lr_image(job, hr, scale)
            for target, (top, left) in wanted.items():
                top, left, size = top // scale, left // scale, grid.size // scale
                write_image(target, image[top : top + size, left : left + size])
    except UserError as error:
        return Outcome(job.hr, failure=f"{job.hr}: {error}")
    written = sum(map(len, missing.values()))
    return Outcome(job.hr, written, len(places) * len(folders) - written)


def _missing(folders: dict[int, Path], job: _Job, places: list[tuple[int, int]]) -> dict[int, dict[Path, tuple[int, int]]]:
    """Return scale -> sub-image that is not there as a whole -> its place, of those scales that have any."""
    found: dict[int, dict[Path, tuple[int, int]]] = {}
    for scale, folder in folders.items():
        for number, place in enumerate(places, 1):
            target = folder / f"{job.name}_s{number:03d}.png"
            if whole_png_size(target) is None:
                found.setdefault(scale, {})[target] = place
    return found


def _lr_image(job: _Job, hr: np.ndarray, scale: int) -> np.ndarray:
    if scale not in job.lr:
        return downscale(hr, scale)
    image, expected = read_rgb(job.lr[scale]), (hr.shape[0] // scale, hr.shape[1] // scale)
    if image.shape[:2] != expected:
        raise UserError(
            f"its LR image {job.lr[scale]} has {image.shape[1]}x{image.shape[0]} pixels, expected {expected[1]}x{expected[0]}."
        )
    return image


# MERGED sr_nas.preparation.generate: A folder of images as one LMDB in BasicSR's layout.


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
