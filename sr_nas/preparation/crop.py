"""Sub-images of HR and LR together, cut at the same places, for faster reading in training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sr_nas.data.pairing import by_stem, match_names, naming_rules
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.images.size import image_size
from sr_nas.preparation.outcome import Outcome, refuse_overlap, stays
from sr_nas.preparation.processes import in_processes
from sr_nas.runs.files import sweep, write_json

RECORD = "crop.json"
"""File in the output folder that says how its images were cut."""


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

    They are 8-bit RGB. Whole sub-images that are there are kept, unless an image they are cut from is newer.

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
        UserError: size or step do not fit the scales, HR and LR do not pair up, or the output folder was cut in another way.
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
    folders = [output / "HR", *(output / "LR" / f"X{scale}" for scale in grid.scales)]
    for folder in folders:
        refuse_overlap(folder, [hr, *({file.parent for partners in pairs.values() for file in partners.values()})])
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    _record(output, grid)
    jobs = [_Job(name, file, pairs[name]) for name, file in images.items()]
    return len(jobs), in_processes(partial(_crop, output, grid), jobs, workers)


def _lr_folder(lr: Path, scale: int, scales: Sequence[int]) -> Path:
    tried = [lr / f"X{scale}", lr / f"x{scale}"]
    for folder in tried:
        if folder.is_dir():
            return folder
    if len(scales) == 1:
        return lr
    raise UserError(f"{lr} has no LR images of scale {scale}: tried {tried[0]} and {tried[1]}.")


def _record(output: Path, grid: Grid) -> None:
    """Sub-images of two grids in one folder would overlap, under names that do not tell."""
    file, now = output / RECORD, {"size": grid.size, "step": grid.step, "scales": sorted(grid.scales)}
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}. Choose another output folder.") from error
        if before != now:
            raise UserError(f"{output} was cut with {before}, not with {now}. Choose another output folder.")
    elif any((output / "HR").iterdir()):
        raise UserError(f"{output / 'HR'} holds files that are not from here. Choose another output folder.")
    else:
        write_json(file, now)


def _crop(output: Path, grid: Grid, job: _Job) -> Outcome:
    try:
        places = grid.places(*image_size(job.hr))
        names = [f"{job.name}_s{number:03d}.png" for number in range(1, len(places) + 1)]
        folders = {1: output / "HR"} | {scale: output / "LR" / f"X{scale}" for scale in grid.scales}
        missing = {
            scale: wanted
            for scale, folder in folders.items()
            if (wanted := [index for index, name in enumerate(names) if not _there(folder / name, job, scale, grid)])
        }
        hr = read_rgb(job.hr) if missing else np.empty(0)
        for scale, wanted in missing.items():
            image = hr if scale == 1 else _lr_image(job, hr, scale)
            for index in wanted:
                top, left = (corner // scale for corner in places[index])
                size = grid.size // scale
                write_image(folders[scale] / names[index], image[top : top + size, left : left + size])
    except UserError as error:
        return Outcome(job.hr, failure=f"{job.hr}: {error}")
    written = sum(map(len, missing.values()))
    return Outcome(job.hr, written, len(places) * len(folders) - written)


def _there(target: Path, job: _Job, scale: int, grid: Grid) -> bool:
    return stays(target, [job.hr, *job.lr.values()], grid.size // scale, grid.size // scale)


def _lr_image(job: _Job, hr: np.ndarray, scale: int) -> np.ndarray:
    if scale not in job.lr:
        return downscale(hr, scale)
    image, expected = read_rgb(job.lr[scale]), (hr.shape[0] // scale, hr.shape[1] // scale)
    if image.shape[:2] != expected:
        raise UserError(
            f"its LR image {job.lr[scale]} has {image.shape[1]}x{image.shape[0]} pixels, expected {expected[1]}x{expected[0]}."
        )
    return image
