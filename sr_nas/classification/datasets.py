"""Pickles of arrays, as CIFAR and Downsampled ImageNet are published, read without running what else a pickle may hold."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

from sr_nas.classification.labelled import EvaluationView, Image, Labelled, Statistics, TrainingView, statistics
from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES, read_rgb
from sr_nas.options.strict import ExistingFile, ExistingFolder
from sr_nas.registry import LABELLED


def read_arrays(file: Path, key: str, of: str) -> dict[str, Any]:
    """Return the mapping of names to arrays, lists and texts that a pickle of Python 2 or 3 holds.

    Args:
        file: the pickle.
        key: a name that it must have.
        of: what the file is a part of, for the message.

    Raises:
        UserError: it is missing or damaged, asks for anything but arrays, or is another one.
    """
    try:
        found = _OnlyArrays(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist: is {file.parent} the unpacked archive of {of}?") from error
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, AttributeError, ImportError, IndexError) as error:
        raise UserError(f"{file} is damaged or no part of {of} ({error}). Fetch it again.") from error
    if not isinstance(found, dict) or key not in found:
        raise UserError(f"{file} holds no '{key}': it is no part of {of} in its form for Python.")
    return found


class _OnlyArrays(pickle.Unpickler):
    """A pickle may run anything; one of arrays needs these alone."""

    _ALLOWED = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})
    # NumPy has had them in several modules.
    _MAKERS = frozenset({("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")})

    def find_class(self, module: str, name: str) -> Any:
        package, _, inner = module.rpartition(".")
        if (module, name) in self._ALLOWED or (package in ("numpy.core", "numpy._core") and (inner, name) in self._MAKERS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


# MERGED sr_nas.classification.datasets: CIFAR-10 and CIFAR-100 (Krizhevsky 2009), as unpacked from their official
# archives of Python pickles.


Part = Literal["train", "test"]
SOURCE = "CIFAR, which tools/prepare_data.py fetches"

CIFAR10_STATISTICS: tuple[Statistics, Statistics] = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS: tuple[Statistics, Statistics] = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@LABELLED.register()
def cifar10(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """Read ``data_batch_1`` to ``data_batch_5`` or ``test_batch``, of 10,000 images each, from ``cifar-10-batches-py``.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = _folder(Path(dataroot), "cifar-10-batches-py")
    names = [f"data_batch_{number}" for number in range(1, 6)] if part == "train" else ["test_batch"]
    batches = [read_arrays(folder / name, "labels", SOURCE) for name in names]
    classes = read_arrays(folder / "batches.meta", "label_names", SOURCE)["label_names"]
    return _labelled(batches, "labels", classes, CIFAR10_STATISTICS)


@LABELLED.register()
def cifar100(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """Read ``train`` or ``test`` from ``cifar-100-python``, with the 100 fine labels.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = _folder(Path(dataroot), "cifar-100-python")
    classes = read_arrays(folder / "meta", "fine_label_names", SOURCE)["fine_label_names"]
    return _labelled([read_arrays(folder / part, "fine_labels", SOURCE)], "fine_labels", classes, CIFAR100_STATISTICS)


def _folder(root: Path, inside: str) -> Path:
    return root / inside if (root / inside).is_dir() else root


def _labelled(batches: list[dict[str, Any]], key: str, classes: list[str], known: tuple[Statistics, Statistics]) -> Labelled:
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [int(label) for batch in batches for label in batch[key]]
    return Labelled(labels, tuple(classes), np.ascontiguousarray(pixels).__getitem__, *known)


# MERGED sr_nas.classification.datasets: ImageNet16-120 of NAS-Bench-201: the first 120 classes of ImageNet at
# 16x16 pixels (Chrabaszcz et al., arXiv 1707.08819).


IMAGENET16_SOURCE = "ImageNet16, the 16x16 form of Downsampled ImageNet"
BATCHES = {"train": tuple(f"train_data_batch_{number}" for number in range(1, 11)), "test": ("val_data",)}
SIDE = 16

# Those by which the benchmark's networks were trained.
STATISTICS: tuple[Statistics, Statistics] = (
    (122.68 / 255, 116.66 / 255, 104.01 / 255),
    (63.22 / 255, 61.26 / 255, 65.09 / 255),
)


@LABELLED.register()
def imagenet16(
    part: Literal["train", "test"], *, dataroot: ExistingFolder, num_classes: Annotated[int, Field(ge=2, le=1000)] = 120
) -> Labelled:
    """Read the first classes from ``train_data_batch_1`` to ``train_data_batch_10`` or ``val_data``; they are named by number.

    Raises:
        UserError: a file is missing or damaged, or holds images of another size.
    """
    pixels, labels = [], []
    for name in BATCHES[part]:
        file = Path(dataroot) / name
        batch = read_arrays(file, "labels", IMAGENET16_SOURCE)
        data, numbers = np.asarray(batch.get("data")), np.asarray(batch["labels"])
        if data.dtype != np.uint8 or data.shape != (len(numbers), 3 * SIDE**2):
            raise UserError(
                f"{file} must hold {len(numbers)} images of {SIDE}x{SIDE} pixels, uint8 [{len(numbers)}, {3 * SIDE**2}], "
                f"not {data.dtype} {list(data.shape)}."
            )
        # Numbered from 1.
        kept = numbers <= num_classes
        pixels.append(data[kept])
        labels += (numbers[kept] - 1).tolist()
    images = np.concatenate(pixels).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    classes = tuple(str(number) for number in range(1, num_classes + 1))
    return Labelled(labels, classes, np.ascontiguousarray(images).__getitem__, *STATISTICS)


# MERGED sr_nas.classification.datasets: A NumPy archive of images that all have one size.


KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")


@LABELLED.register()
def npz(part: Literal["train", "test"], *, dataroot: ExistingFile) -> Labelled:
    """Read an ``.npz`` with ``x_train`` and ``x_test``, uint8 [N, H, W, 3], ``y_train`` and ``y_test``, [N], and ``classes``.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    path = Path(dataroot)
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {key: stored[key] for key in KEYS if key in stored}
    except (OSError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz ({error}).") from error
    if missing := [key for key in KEYS if key not in found]:
        raise UserError(f"{path} lacks {listing(missing)}; an archive of labelled images holds {listing(KEYS)}.")
    classes = tuple(map(str, found["classes"].tolist()))
    for name in ("train", "test"):
        images, labels = found[f"x_{name}"], found[f"y_{name}"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"{path}: x_{name} must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}.")
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"{path}: y_{name} must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise UserError(f"{path}: y_{name} names classes {labels.min()} to {labels.max()}, and there are {len(classes)}.")
    return Labelled(found[f"y_{part}"].tolist(), classes, found[f"x_{part}"].__getitem__, *statistics(found["x_train"]))


# MERGED sr_nas.classification.datasets: Image files in a folder for each class, as ImageNet is kept.


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
        part: which images; of training are seen through :class:`~sr_nas.classification.labelled.TrainingView`, others through
            :class:`~sr_nas.classification.labelled.EvaluationView`.
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
