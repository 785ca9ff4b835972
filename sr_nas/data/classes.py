"""Images with class numbers, and the batches that a classifier learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Image = NDArray[np.uint8]
Statistics = tuple[float, float, float]
View = Callable[[Image, np.random.Generator], Image]
"""What is looked at of an image: a crop of one size, say, drawn by the generator."""


@dataclass(frozen=True)
class Labelled:
    """An ordered set of images, read when asked for, each of one class. It can be pickled if its reader can.

    Attributes:
        labels: class number of every image.
        classes: names of the classes.
        read: index -> image as stored, uint8 [H, W, 3], RGB.
        mean: of the training images, per channel, in 0..1.
        std: the same of the standard deviation.
        view: makes images of one size of those that are read, at random for training; ``None`` where they have one.
    """

    labels: Sequence[int]
    classes: tuple[str, ...]
    read: Callable[[int], Image]
    mean: Statistics
    std: Statistics
    view: View | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> Labelled:
        """Return the first so many images alone; ``None`` for all."""
        return self if count is None else replace(self, labels=self.labels[:count])


def statistics(images: NDArray[np.uint8]) -> tuple[Statistics, Statistics]:
    """Return mean and standard deviation per channel, in 0..1, of uint8 images [N, H, W, 3]."""
    values = images.reshape(-1, 3)
    counts = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    means = counts @ levels / len(values)
    deviations = np.sqrt(counts @ levels**2 / len(values) - means**2)
    return tuple(map(float, means)), tuple(map(float, deviations))  # type: ignore[return-value]


class LabelledDataset(Dataset[tuple[Tensor, Tensor]]):
    """Training images, addressed by ``(index, draw)``: which image, and the running number of the sample.

    Crop, mirroring and cutout come from a generator seeded by ``(seed, draw)`` alone, so that a sample depends neither on the
    workers nor on what was read before.

    Args:
        images: all of one size, or with a view that makes them so.
        crop_padding: pixels of zeros around the image, out of which one of the old size is cropped at random. Images with a
            view are cropped by that instead.
        use_hflip: mirror left to right, half of the time.
        cutout: side of a square that is set to the mean, its centre anywhere in the image (DeVries & Taylor, arXiv 1708.04552);
            0 for none.
        seed: of all of these.
    """

    def __init__(self, images: Labelled, crop_padding: int = 0, use_hflip: bool = False, cutout: int = 0, seed: int = 0) -> None:
        self.images = images
        self.crop_padding = 0 if images.view else crop_padding
        self.use_hflip, self.cutout, self.seed = use_hflip, cutout, seed
        self._mean = np.array(images.mean, np.float32)
        self._std = np.array(images.std, np.float32)

    def __len__(self) -> int:
        """The number of images; of each there are any number of draws."""
        return len(self.images)

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return ``(image, class number)``: float32 [3, H, W], normalised to mean 0 and deviation 1, and int64 []."""
        index, draw = address
        pixels = self.images.read(index)
        generator = np.random.default_rng([self.seed, draw])
        # All are drawn whether used or not: switching an option leaves the others as they were.
        down, right, flip, row, column = generator.random(5)
        if self.images.view:
            pixels = self.images.view(pixels, generator)
        height, width = pixels.shape[:2]
        if self.use_hflip and flip < 0.5:
            pixels = pixels[:, ::-1]
        if self.crop_padding:
            # Zeros in the image, as the field pads, not in what is normalised.
            border = np.zeros((height + 2 * self.crop_padding, width + 2 * self.crop_padding, 3), np.uint8)
            border[self.crop_padding : -self.crop_padding, self.crop_padding : -self.crop_padding] = pixels
            top, left = (int(share * (2 * self.crop_padding + 1)) for share in (down, right))
            pixels = border[top : top + height, left : left + width]
        values = (pixels.astype(np.float32) / 255 - self._mean) / self._std
        if self.cutout:
            top, left = int(row * height) - self.cutout // 2, int(column * width) - self.cutout // 2
            values[max(top, 0) : max(top + self.cutout, 0), max(left, 0) : max(left + self.cutout, 0)] = 0
        return (
            torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))),
            torch.tensor(self.images.labels[index], dtype=torch.int64),
        )
