"""LR images of a folder of HR images, in DIV2K's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from sr_nas.data.pairing import by_stem
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.images.size import whole_png_size
from sr_nas.preparation.made_of import changed, note_of, renew
from sr_nas.preparation.outcome import Outcome, refuse_overlap
from sr_nas.preparation.placing import alone
from sr_nas.preparation.processes import in_processes
from sr_nas.runs.files import sweep


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
