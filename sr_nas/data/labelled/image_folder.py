"""Image files in a folder for each class, as ImageNet is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sr_nas.data.classes import Image, Labelled, Statistics
from sr_nas.data.views import EvaluationView, TrainingView
from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES, read_rgb
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import LABELLED

FOLDERS = {"train": ("train",), "test": ("val", "test")}
IMAGENET_STATISTICS: tuple[Statistics, Statistics] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@LABELLED.register()
def image_folder(
    part: Literal["train", "test"],
    *,
    dataroot: ExistingFolder,
    size: Annotated[int, Field(ge=8)] = 224,
    colour_jitter: bool = True,
) -> Labelled:
    """Read ``train/CLASS/*`` or ``val/CLASS/*`` (or ``test/CLASS/*``), images of any size, decoded one by one.

    Classes are numbered by name, those of ``train`` where there is one. The order goes round the classes, so that the first so
    many images hold all of them.

    Args:
        part: which images; those of training are seen through :class:`~sr_nas.data.views.TrainingView`, others through
            :class:`~sr_nas.data.views.EvaluationView`.
        dataroot: the folder that holds the parts.
        size: side in pixels of what is cut out of an image.
        colour_jitter: whether training changes colours.

    Raises:
        UserError: a folder is missing or holds no image, or a class was not among those of training.
    """
    folders = {name: _first(Path(dataroot), name) for name in FOLDERS}
    folder = folders[part]
    if folder is None:
        raise UserError(
            f"{dataroot} has no folder {listing(FOLDERS[part])}: there is one expected, with a folder for each class."
        )
    classes = _class_names(folders["train"] or folder)
    names = _class_names(folder)
    if unknown := sorted(set(names) - set(classes)):
        raise UserError(f"{folder} has classes that {folders['train']} has not: {listing(unknown, 5)}.")
    number_of = {name: number for number, name in enumerate(classes)}
    rounds = zip_longest(*([(file, number_of[name]) for file in _images(folder / name)] for name in names))
    found = [pair for each in rounds for pair in each if pair is not None]
    view = TrainingView(size, colour_jitter) if part == "train" else EvaluationView(size)
    return Labelled(
        [number for _, number in found], tuple(classes), _Files(tuple(file for file, _ in found)), *IMAGENET_STATISTICS, view
    )


@dataclass(frozen=True)
class _Files:
    """Reads an image by its number."""

    files: Sequence[str]

    def __call__(self, index: int) -> Image:
        return read_rgb(Path(self.files[index]))


def _first(root: Path, part: str) -> Path | None:
    return next((root / name for name in FOLDERS[part] if (root / name).is_dir()), None)


def _class_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(
            f"{folder} holds no folders: the images of each class are expected in a folder of its name. ImageNet's own archive "
            "of validation images has none; sort them by the classes that its development kit gives."
        )
    return names


def _images(folder: Path) -> list[str]:
    """Paths as text: a million of them are kept."""
    found = [
        os.path.join(place, name)
        for place, _, files in os.walk(folder)
        for name in files
        if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
    ]
    if not found:
        raise UserError(f"no image in {folder}: looked for {listing(IMAGE_SUFFIXES)}.")
    return sorted(found)
