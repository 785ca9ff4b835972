"""Labelled images: readers of the data sets, and the training samples that are drawn from them.

To add a data set, register a function of ``part`` (``"train"`` or ``"test"``) and its options that returns :class:`Labelled`.
Readers raise UserError for files that are missing, damaged or of another form.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sr_nas.errors import UserError, listing
from sr_nas.images.files import check_readable, read_rgb
from sr_nas.images.folders import find_images, is_folder
from sr_nas.options.strict import ExistingFile, ExistingFolder
from sr_nas.registry import LABELLED
from sr_nas.runs.files import bytes_of

Part = Literal["train", "test"]
Pixels = NDArray[np.uint8]
Statistics = tuple[float, float, float]

# Mean and standard deviation of the training images per channel; those of ImageNet16 are the benchmark's own.
CIFAR10_STATISTICS: tuple[Statistics, Statistics] = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS: tuple[Statistics, Statistics] = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET_STATISTICS: tuple[Statistics, Statistics] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET16_STATISTICS: tuple[Statistics, Statistics] = (
    (122.68 / 255, 116.66 / 255, 104.01 / 255),
    (63.22 / 255, 61.26 / 255, 65.09 / 255),
)
ARCHIVE_KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")


@dataclass(frozen=True)
class Labelled:
    """An ordered set of images with one class each, read when asked for. Worker processes get it pickled.

    Attributes:
        labels: class number of every image.
        classes: names of the classes.
        read: index -> image as stored, uint8 [H, W, 3], RGB.
        mean, std: of the training images, per channel, in 0..1.
        transform: torchvision transform that gives all images one size, at random for training; ``None`` where they have one.
        files: name of every image with its class; empty where they lie in arrays.
        root: folder of the files.
    """

    labels: Sequence[int]
    classes: tuple[str, ...]
    read: Callable[[int], Pixels]
    mean: Statistics
    std: Statistics
    transform: Callable[[Image.Image], Image.Image] | None = None
    files: Sequence[str] = ()
    root: Path = Path()

    @property
    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes of its file, ``None`` for arrays."""
        return {name: bytes_of(str(self.root / name)) if self.files else None for name in self.names}

    @property
    def names(self) -> Sequence[str]:
        """The files; of arrays one text, which other numbers or another order of classes change."""
        digest = hashlib.sha256(repr((self.classes, list(map(int, self.labels)))).encode()).hexdigest()[:12]
        return self.files or [f"{len(self)} images of {len(self.classes)} classes ({digest})"]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Labelled:
        """Return the set with its first ``count`` images only; ``None`` for all."""
        return self if count is None else replace(self, labels=self.labels[:count], files=self.files[:count])


class LabelledDataset(Dataset[tuple[Tensor, Tensor]]):
    """Training samples, addressed by ``(index, draw)``: the image, and the running number of the sample.

    Every random number of a sample depends on ``(seed, draw)`` alone, so that worker processes and resuming change nothing.

    Args:
        images: all of one size, or with a transform that makes them so.
        crop_padding: pixels of zeros around an image, of which a window of the old size is cropped at random. Not for images
            with a transform.
        use_hflip: mirror left to right, half of the time.
        cutout: side of a square that is set to the mean, its centre anywhere in the image (DeVries & Taylor, arXiv 1708.04552);
            0 for none.
        seed: of the augmentations.
    """

    def __init__(self, images: Labelled, crop_padding: int = 0, use_hflip: bool = False, cutout: int = 0, seed: int = 0) -> None:
        self.images, self.crop_padding = images, 0 if images.transform else crop_padding
        self.use_hflip, self.cutout, self.seed = use_hflip, cutout, seed
        self._mean, self._std = np.array(images.mean, np.float32), np.array(images.std, np.float32)

    def __len__(self) -> int:
        """The number of images; each has any number of draws."""
        return len(self.images)

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return ``(image, class number)``: float32 [3, H, W], normalised to mean 0 and deviation 1, and int64 []."""
        index, draw = address
        pixels = self.images.read(index)
        generator = np.random.default_rng([self.seed, draw])
        # All are drawn whether used or not, so that switching an option leaves the other augmentations as they were.
        down, right, flip, row, column = generator.random(5)
        if self.images.transform:
            with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from PyTorch's global generator
                torch.manual_seed(int(generator.integers(2**63)))
                pixels = np.asarray(self.images.transform(Image.fromarray(pixels)))
        height, width = pixels.shape[:2]
        if self.use_hflip and flip < 0.5:
            pixels = pixels[:, ::-1]
        if margin := self.crop_padding:
            # Black pixels, as the field pads, not zeros after normalisation.
            padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)))
            top, left = int(down * (2 * margin + 1)), int(right * (2 * margin + 1))
            pixels = padded[top : top + height, left : left + width]
        values = (pixels.astype(np.float32) / 255 - self._mean) / self._std
        if self.cutout:
            top, left = int(row * height) - self.cutout // 2, int(column * width) - self.cutout // 2
            values[max(top, 0) : max(top + self.cutout, 0), max(left, 0) : max(left + self.cutout, 0)] = 0
        image = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return image, torch.tensor(self.images.labels[index], dtype=torch.int64)


def statistics(images: Pixels) -> tuple[Statistics, Statistics]:
    """Return mean and standard deviation per channel, in 0..1, of uint8 images [N, H, W, 3], without a copy as floats."""
    values, levels = images.reshape(-1, 3), np.arange(256) / 255
    counts = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])
    means = counts @ levels / len(values)
    deviations = np.sqrt(counts @ levels**2 / len(values) - means**2)
    return tuple(map(float, means)), tuple(map(float, deviations))  # type: ignore[return-value]


class _ArrayUnpickler(pickle.Unpickler):
    """Loads arrays, lists and texts, and refuses anything else: a pickle may run any code, those of arrays need only these."""

    _ALLOWED = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})
    # NumPy has had them in several modules.
    _CONSTRUCTORS = frozenset({("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")})

    def find_class(self, module: str, name: str) -> Any:
        package, _, inner = module.rpartition(".")
        if (module, name) in self._ALLOWED or (package in ("numpy.core", "numpy._core") and (inner, name) in self._CONSTRUCTORS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_arrays(file: Path, key: str, source: str) -> dict[str, Any]:
    """Read a pickled mapping of names to arrays, lists and texts, of Python 2 or 3.

    Raises:
        UserError: the file is missing or damaged, holds anything but arrays, or lacks ``key``: it is no part of ``source``.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist: is {file.parent} the unpacked archive of {source}?") from error
    except Exception as error:  # of whatever type, as damaged pickles ask for anything
        raise UserError(f"{file} is damaged or no part of {source} ({error}). Fetch it again.") from error
    if not isinstance(content, dict) or key not in content:
        raise UserError(f"{file} holds no '{key}': it is no part of {source} in its form for Python.")
    return content


def _read_batch(file: Path, key: str, source: str, side: int) -> tuple[Pixels, Pixels]:
    """Read images, uint8 [N, 3 side²], and their labels, integers [N], under ``key``; errors as of :func:`read_arrays`."""
    batch = read_arrays(file, key, source)
    data, numbers = np.asarray(batch.get("data")), np.asarray(batch[key])
    expected = [numbers.size, 3 * side**2]
    if data.dtype != np.uint8 or list(data.shape) != expected or numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(
            f"{file} must hold {numbers.size} labels, integers, and images of {side}x{side} pixels, uint8 {expected}, "
            f"not {data.dtype} {list(data.shape)}."
        )
    return data, numbers


def _images_of_planes(planes: list[Pixels], side: int) -> Callable[[int], Pixels]:
    """Reader of images that are stored as rows of all red, then all green, then all blue values."""
    images = np.concatenate(planes).reshape(-1, 3, side, side).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images).__getitem__


@LABELLED.register()
def cifar10(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """CIFAR-10 (Krizhevsky 2009), the files of ``cifar-10-batches-py``."""
    files = [f"data_batch_{number}" for number in range(1, 6)] if part == "train" else ["test_batch"]
    return _cifar(Path(dataroot), "cifar-10-batches-py", files, ("batches.meta", "label_names"), "labels", CIFAR10_STATISTICS)


@LABELLED.register()
def cifar100(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """CIFAR-100 (Krizhevsky 2009) with its 100 fine labels, the files of ``cifar-100-python``."""
    return _cifar(Path(dataroot), "cifar-100-python", [part], ("meta", "fine_label_names"), "fine_labels", CIFAR100_STATISTICS)


def _cifar(
    root: Path, inside: str, files: list[str], meta: tuple[str, str], key: str, known: tuple[Statistics, Statistics]
) -> Labelled:
    folder, source = root / inside if (root / inside).is_dir() else root, "CIFAR, which tools/prepare_data.py fetches"
    batches = [_read_batch(folder / name, key, source, 32) for name in files]
    classes = read_arrays(folder / meta[0], meta[1], source)[meta[1]]
    labels = [label for _, numbers in batches for label in numbers.tolist()]
    return Labelled(labels, tuple(map(str, classes)), _images_of_planes([data for data, _ in batches], 32), *known)


@LABELLED.register()
def imagenet16(part: Part, *, dataroot: ExistingFolder, num_classes: Annotated[int, Ge(2), Le(1000)] = 120) -> Labelled:
    """ImageNet16-120 of NAS-Bench-201: the first classes of ImageNet at 16x16 pixels (Chrabaszcz et al., arXiv 1707.08819).

    Args:
        part: ``"train"`` for ``train_data_batch_1`` to ``train_data_batch_10``, ``"test"`` for ``val_data``.
        dataroot: the folder of these files.
        num_classes: how many classes to keep, named by their number.
    """
    files = [f"train_data_batch_{number}" for number in range(1, 11)] if part == "train" else ["val_data"]
    planes, labels = [], []
    for name in files:
        source = "ImageNet16, the 16x16 form of Downsampled ImageNet"
        data, numbers = _read_batch(Path(dataroot) / name, "labels", source, 16)
        selected = numbers <= num_classes
        planes.append(data[selected])
        labels += (numbers[selected] - 1).tolist()  # the files count from 1
    classes = tuple(str(number) for number in range(1, num_classes + 1))
    return Labelled(labels, classes, _images_of_planes(planes, 16), *IMAGENET16_STATISTICS)


@LABELLED.register()
def npz(part: Part, *, dataroot: ExistingFile) -> Labelled:
    """An ``.npz`` with ``x_train`` and ``x_test``, uint8 [N, H, W, 3], ``y_train`` and ``y_test``, [N], and ``classes``."""
    path = Path(dataroot)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: np.atleast_1d(stored[key]) for key in ARCHIVE_KEYS if key in stored}
    except Exception as error:  # of zip, zlib, NumPy's headers and memory
        raise UserError(f"{path} cannot be read as .npz ({error}).") from error
    if missing := [key for key in ARCHIVE_KEYS if key not in arrays]:
        raise UserError(f"{path} lacks {listing(missing)}; an archive of labelled images holds {listing(ARCHIVE_KEYS)}.")
    classes = tuple(map(str, arrays["classes"].tolist()))
    for name in ("train", "test"):
        images, labels = arrays[f"x_{name}"], arrays[f"y_{name}"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"{path}: x_{name} must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}.")
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"{path}: y_{name} must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise UserError(f"{path}: y_{name} names classes {labels.min()} to {labels.max()}, and there are {len(classes)}.")
    return Labelled(arrays[f"y_{part}"].tolist(), classes, arrays[f"x_{part}"].__getitem__, *statistics(arrays["x_train"]))


@LABELLED.register()
def image_folder(
    part: Part, *, dataroot: ExistingFolder, size: Annotated[int, Ge(8)] = 224, colour_jitter: bool = True
) -> Labelled:
    """Image files of any size in a folder for each class, as ImageNet is laid out.

    Classes are numbered by name, those of ``train`` where there is one. The order alternates between the classes, so that the
    first images hold all of them.

    Args:
        part: ``"train"`` reads ``train/CLASS/*``: boxes of 8 to 100 % of the image (Szegedy et al., arXiv 1409.4842), in the
            changed colours of DARTS's training. ``"test"`` reads ``val/CLASS/*`` or ``test/CLASS/*``: the middle, 224 pixels of
            256 along the shorter side.
        dataroot: the folder that holds the parts.
        size: side in pixels of what is cut out of an image.
        colour_jitter: whether training changes colours.
    """
    # Imported here, since nothing else needs it, and it takes longer than PyTorch itself, whose compiler it loads.
    from torchvision.transforms import CenterCrop, ColorJitter, Compose, RandomResizedCrop, Resize

    root, insides = Path(dataroot), ("train",) if part == "train" else ("val", "test")
    folder = next((root / inside for inside in insides if is_folder(root / inside)), None)
    if folder is None:
        raise UserError(f"{root} has no folder {listing(insides)}: there is one expected, with a folder for each class.")
    train = root / "train" if is_folder(root / "train") else folder
    classes, names = _class_names(train), _class_names(folder)
    if unknown := sorted(set(names) - set(classes)):
        raise UserError(f"{folder} has classes that {train} has not: {listing(unknown, 5)}.")
    by_class = [sorted(map(str, find_images(folder / name, recursive=True, follow=True))) for name in names]
    check_readable(chain(*by_class))
    pairs = zip_longest(*([(file, classes.index(name)) for file in files] for name, files in zip(names, by_class, strict=True)))
    ordered = [pair for row in pairs for pair in row if pair is not None]
    if part == "train":
        steps = [RandomResizedCrop(size), *([ColorJitter(0.4, 0.4, 0.4, 0.2)] if colour_jitter else [])]
    else:
        steps = [Resize(round(size * 8 / 7)), CenterCrop(size)]
    reader = partial(_read_file, [file for file, _ in ordered])
    files = [str(Path(file).relative_to(folder)) for file, _ in ordered]
    labels = [number for _, number in ordered]
    return Labelled(labels, tuple(classes), reader, *IMAGENET_STATISTICS, Compose(steps), files, folder)


def _read_file(files: Sequence[str], index: int) -> Pixels:
    return read_rgb(Path(files[index]))


def _class_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and is_folder(path))
    if not names:
        raise UserError(
            f"{folder} holds no folders: the images of each class are expected in a folder of its name. ImageNet's own archive "
            "of validation images has none; sort them by the classes that its development kit gives."
        )
    return names
