"""Sub-images of HR and LR together, cut at the same places, for faster reading in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sr_nas.data.pairing import by_stem, match_names, naming_rules
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.images.size import image_size, whole_png_size
from sr_nas.preparation.made_of import changed, note_of, renew
from sr_nas.preparation.outcome import Outcome, refuse_overlap
from sr_nas.preparation.placing import alone
from sr_nas.preparation.processes import in_processes
from sr_nas.runs.files import sweep


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
