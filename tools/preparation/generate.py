"""Generated data: LR images, sub-images of HR and LR, and LMDB folders in BasicSR's layout.

An output file that exists is compared with what would be written: an equal one stays and is counted, a different one fails for
that image, unless ``overwrite`` is set. So a stopped run continues, and outputs of other images are never mixed in.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

import cv2
import lmdb
import numpy as np

from preparation.outputs import atomic_dir, check_room, in_processes
from sr_nas.data.layouts import by_stem, common_scale, match_names, naming_rules
from sr_nas.errors import UserError
from sr_nas.images.files import read_image, read_rgb, write_image
from sr_nas.images.folders import is_folder, list_images
from sr_nas.images.resize import downscale
from sr_nas.runs.files import ABANDONED, sweep

MAP_SIZE = 2**40
"""Bytes of address space of an LMDB while it is written. The file takes only what is in it."""
SPARE = 2**20
"""Bytes on the disk that one image in an LMDB takes at most beside its data: pages that are copied, the lock file."""
LONGEST_KEY = 511
"""Bytes of a key; the limit of LMDB."""
REMEDY = "Choose another output folder, or --overwrite."


class Result(NamedTuple):
    """Outputs of one HR image: how many were written, how many existed and were equal, and why the others failed (or ``""``)."""

    written: int = 0
    existing: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Grid:
    """Where sub-images are cut: side and distance in HR pixels, for LR of these scales.

    Raises:
        UserError: sub-images would not be whole LR pixels at every scale.
    """

    size: int
    step: int
    scales: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("step", self.step)):
            if value < 1 or value % self.unit:
                near = max(self.unit, round(value / self.unit) * self.unit)
                scales = ", ".join(map(str, self.scales))
                raise UserError(f"--{name} {value} must be a multiple of {self.unit}, for scales {scales}: for example {near}.")

    @property
    def unit(self) -> int:
        """HR pixels that are whole LR pixels at every scale."""
        return math.lcm(*self.scales)

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the (top, left) corners in HR pixels, row by row, for an image of this size.

        The last row and column end where the image, cropped to whole LR pixels, does, so that nothing of it is lost.

        Raises:
            UserError: the image is smaller than a sub-image.
        """
        if min(height, width) // self.unit * self.unit < self.size:
            raise UserError(f"{width}x{height} pixels are too few for sub-images of {self.size}. Lower --size or take it out.")
        lasts = [side // self.unit * self.unit - self.size for side in (height, width)]
        tops, lefts = ([*range(0, last, self.step), last] for last in lasts)
        return [(top, left) for top in tops for left in lefts]


def make_lr(hr: Path, output: Path, scales: Sequence[int], workers: int, overwrite: bool = False) -> tuple[int, Iterator[Result]]:
    """Write ``X2/NAMEx2.png`` and so on for a folder of HR images, as DIV2K names them, with the pixels of MATLAB's ``imresize``.

    Args:
        hr: folder of HR images.
        output: folder for ``X2``, ``X3``, ...
        scales: HR pixels per LR pixel and side.
        workers: number of processes.
        overwrite: replace existing files that differ.

    Returns:
        Number of HR images, and an iterator that computes and yields their results in the order of names.

    Raises:
        UserError: no images, two of one name, or an output folder that is ``hr``.
    """
    images = by_stem(list_images(hr))
    for scale in scales:
        _prepare_output(output / f"X{scale}", [hr])
    return len(images), in_processes(partial(_lr_of, output, scales, overwrite), list(images.items()), workers)


def _lr_of(output: Path, scales: Sequence[int], overwrite: bool, image: tuple[str, Path]) -> Result:
    name, file = image

    def outputs() -> Iterator[tuple[Path, np.ndarray]]:
        hr = read_rgb(file)
        for scale in scales:
            yield output / f"X{scale}" / f"{name}x{scale}.png", downscale(hr, scale)

    return _write(file, outputs(), overwrite)


def crop(
    hr: Path, lr: Path | None, output: Path, grid: Grid, workers: int, overwrite: bool = False
) -> tuple[int, Iterator[Result]]:
    """Cut HR images and their LR images at the same places into ``HR/NAME_s001.png`` and ``LR/X2/NAME_s001.png``, row by row.

    Args:
        hr: folder of HR images.
        lr: folder of the LR images: it holds ``X2`` and so on, or the images themselves where there is one scale. ``None``
            cuts them from the downscaled whole HR image.
        output: folder for ``HR`` and ``LR``.
        grid: where to cut.
        workers: number of processes.
        overwrite: replace existing files that differ, and remove further sub-images of the same HR images.

    Returns:
        As :func:`make_lr`.

    Raises:
        UserError: HR and LR do not pair up, or an output folder is an input folder.
    """
    images = by_stem(list_images(hr))
    lr_files: dict[str, dict[int, Path]] = {name: {} for name in images}
    places = {} if lr is None else {scale: _lr_folder(lr, scale, grid.scales) for scale in grid.scales}
    for scale, place in places.items():
        partners = by_stem(list_images(place))
        names = match_names(list(images), list(partners), naming_rules("{}", scale), str(hr), str(place))
        for name, partner in zip(images, names, strict=True):
            lr_files[name][scale] = partners[partner]
    for folder in (output / "HR", *(output / "LR" / f"X{scale}" for scale in grid.scales)):
        _prepare_output(folder, [hr, *places.values()])
    jobs = [(name, file, lr_files[name]) for name, file in images.items()]
    return len(jobs), in_processes(partial(_crop, output, grid, overwrite), jobs, workers)


def _lr_folder(lr: Path, scale: int, scales: Sequence[int]) -> Path:
    tried = [lr / f"X{scale}", lr / f"x{scale}"]
    folder = next(filter(is_folder, tried), lr if len(scales) == 1 else None)
    if folder is None:
        raise UserError(f"{lr} has no LR images of scale {scale}: tried {tried[0]} and {tried[1]}.")
    return folder


def _crop(output: Path, grid: Grid, overwrite: bool, job: tuple[str, Path, dict[int, Path]]) -> Result:
    name, file, lr_files = job

    def outputs() -> Iterator[tuple[Path, np.ndarray]]:
        hr = read_rgb(file)
        places = grid.places(*hr.shape[:2])
        for scale in (1, *grid.scales):
            folder = output / "HR" if scale == 1 else output / "LR" / f"X{scale}"
            image = hr if scale == 1 else _lr_image(hr, lr_files.get(scale), scale)
            for number, (top, left) in enumerate(places, 1):
                y, x, side = top // scale, left // scale, grid.size // scale
                yield folder / f"{name}_s{number:03d}.png", image[y : y + side, x : x + side]
            # A larger image or a smaller step had more sub-images, which would be trained on beside these.
            surplus = (folder / f"{name}_s{number:03d}.png" for number in count(len(places) + 1))
            for extra in takewhile(Path.exists, surplus):
                if not overwrite:
                    raise UserError(f"{extra} is of another image or grid. {REMEDY}")
                extra.unlink()

    return _write(file, outputs(), overwrite)


def _lr_image(hr: np.ndarray, file: Path | None, scale: int) -> np.ndarray:
    if file is None:
        return downscale(hr, scale)
    image, expected = read_rgb(file), (hr.shape[0] // scale, hr.shape[1] // scale)
    if image.shape[:2] != expected:
        raise UserError(f"LR {file} has {image.shape[1]}x{image.shape[0]} pixels, expected {expected[1]}x{expected[0]}.")
    return image


def _prepare_output(folder: Path, sources: Sequence[Path]) -> None:
    """Refuse an output folder that holds the sources; remove what a kill has left there, not what another run is writing now."""
    if any(folder.resolve() == source.resolve() for source in sources):
        raise UserError(f"{folder} holds the images that are read: choose another output folder.")
    sweep(folder, ABANDONED)


def _write(source: Path, outputs: Iterable[tuple[Path, np.ndarray]], overwrite: bool) -> Result:
    """Write the outputs of one image as PNG, up to the first that fails. Those that exist must be equal, or are overwritten."""
    written = existing = 0
    try:
        for target, pixels in outputs:
            if target.exists() and _equals(target, pixels):
                existing += 1
            elif target.exists() and not overwrite:
                raise UserError(f"{target} exists and is another image. {REMEDY}")
            else:
                write_image(target, pixels)
                written += 1
    except UserError as error:
        return Result(written, existing, str(error) if str(source) in str(error) else f"{source}: {error}")
    return Result(written, existing)


def _equals(file: Path, pixels: np.ndarray) -> bool:
    try:
        return np.array_equal(read_image(file), pixels)
    except UserError:  # no image, or half of one
        return False


def write_lmdb(source: Path, output: Path, compression: int, workers: int) -> tuple[int, Iterator[int]]:
    """Write the images of a folder into an LMDB, as PNG files whose keys are their names without extension.

    LR images that are all named as those of DIV2K (``0001x2``) get the keys of HR, since basicsr expects both to be equal.
    ``meta_info.txt`` lists name, (height,width,channels) and compression of each. Grey, RGB, RGBA, 8 and 16 bits stay what
    they are; grey with alpha becomes RGBA. The folder appears once all is written.

    Args:
        source: folder of images.
        output: the LMDB folder; its name ends in ``.lmdb``, which basicsr insists on.
        compression: of PNG, 0..9; what it saves in size it costs in time, of reading too.
        workers: number of processes that encode.

    Returns:
        Number of images, and an iterator that writes them and yields how many are done.

    Raises:
        UserError: two images have one name, an image cannot be read, or the output exists.
    """
    if output.suffix != ".lmdb":
        raise UserError(f"{output}: the name of the folder must end in .lmdb, or basicsr does not read it.")
    if output.exists():
        raise UserError(f"{output} exists. Remove it to write it anew, or choose another name.")
    images = by_stem(list_images(source))
    scale = common_scale(images)
    if scale is not None:
        images = {name.removesuffix(f"x{scale}"): file for name, file in images.items()}
    for key, file in images.items():
        if len(os.fsencode(key)) > LONGEST_KEY or len(key.splitlines()) > 1 or re.search("[\udc80-\udcff]", key):
            raise UserError(f"the name of {file} is no key of LMDB: at most {LONGEST_KEY} bytes of UTF-8, without line breaks.")
    return len(images), _fill_lmdb(images, output, compression, workers)


def _fill_lmdb(images: dict[str, Path], output: Path, compression: int, workers: int) -> Iterator[int]:
    encoded = in_processes(partial(_encode, compression), list(images.values()), workers)
    with atomic_dir(output) as folder:
        try:
            # LMDB writes its lock file, and on a disk in memory more, through a map: where a page has no room, the process dies.
            check_room(folder, SPARE, output.name)
            with (
                lmdb.open(os.fsencode(folder), map_size=MAP_SIZE, sync=False) as environment,
                (folder / "meta_info.txt").open("w", encoding="utf-8") as meta,
            ):
                for number, (key, (data, (height, width, channels))) in enumerate(zip(images, encoded, strict=True), 1):
                    check_room(folder, len(data) + SPARE, f"the next image of {output.name}")
                    with environment.begin(write=True) as transaction:
                        transaction.put(key.encode(), data)
                    meta.write(f"{key}.png ({height},{width},{channels}) {compression}\n")
                    yield number
                environment.sync(True)
        except lmdb.Error as error:
            raise UserError(f"{output} cannot be written: {error}. Is the disk full?") from error


def _encode(compression: int, file: Path) -> tuple[bytes, tuple[int, ...]]:
    pixels = read_image(file)
    # OpenCV encodes BGR, BGRA or grey.
    order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    swapped = np.ascontiguousarray(pixels[..., order])
    success, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    if not success:
        raise UserError(f"{file} cannot be written as PNG: {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    return data.tobytes(), swapped.shape
