"""Images with class numbers, and the batches that a classifier learns from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageEnhance
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


# MERGED sr_nas.classification.labelled: What a classifier looks at of images of any size: the crops and colours of
# ImageNet's usual training and evaluation.


ATTEMPTS = 10
"""Boxes drawn until one lies inside the image; then the middle is taken."""


def draw_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a box inside an image: its share of the area evenly, its ratio of sides evenly in the logarithm.

    The augmentation of Inception (Szegedy et al., arXiv 1409.4842, section 6), with torchvision's way out for images that are
    too long: the largest box around the middle whose ratio is allowed.

    Args:
        height: of the image.
        width: of the image.
        scale: least and largest share of the image's area.
        ratio: least and largest width by height.
        generator: draws it.

    Returns:
        ``(top, left, height, width)``.
    """
    for _ in range(ATTEMPTS):
        area = height * width * generator.uniform(*scale)
        sides = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < wide <= width and 0 < high <= height:
            return (
                int(generator.integers(height - high, endpoint=True)),
                int(generator.integers(width - wide, endpoint=True)),
                high,
                wide,
            )
    high, wide = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def shift_hue(image: Pillow.Image, shift: float) -> Pillow.Image:
    """Turn the hues of an RGB image by a share of the full circle, -0.5..0.5."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)  # uint8 goes round as hues do
    return Pillow.merge("HSV", (Pillow.fromarray(turned), saturation, value)).convert("RGB")


@dataclass(frozen=True)
class TrainingView:
    """A random box of the image, resized to a square, in changed colours.

    The defaults are those of DARTS's training on ImageNet (Liu, Simonyan & Yang, ICLR 2019): brightness, contrast and
    saturation are scaled by 0.6 to 1.4, and hues turned by up to a fifth of the circle, in random order.

    Attributes:
        size: side of the square.
        colour: whether colours change.
        scale: of :func:`draw_box`.
        ratio: of :func:`draw_box`.
        strength: how far the factors of brightness, contrast and saturation lie from 1.
        hue: largest shift of hues, as a share of the circle.
    """

    size: int
    colour: bool
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    strength: float = 0.4
    hue: float = 0.2

    def __call__(self, pixels: Image, generator: np.random.Generator) -> Image:
        """Return uint8 [size, size, 3] of uint8 [H, W, 3]."""
        rows, columns = pixels.shape[:2]
        top, left, height, width = draw_box(rows, columns, self.scale, self.ratio, generator)
        box = Pillow.fromarray(pixels[top : top + height, left : left + width])
        image = box.resize((self.size, self.size), Pillow.Resampling.BILINEAR)
        return np.asarray(self._coloured(image, generator) if self.colour else image)

    def _coloured(self, image: Pillow.Image, generator: np.random.Generator) -> Pillow.Image:
        factors = generator.uniform(1 - self.strength, 1 + self.strength, 3)
        shift = generator.uniform(-self.hue, self.hue)
        changes = [
            lambda image: ImageEnhance.Brightness(image).enhance(factors[0]),
            lambda image: ImageEnhance.Contrast(image).enhance(factors[1]),
            lambda image: ImageEnhance.Color(image).enhance(factors[2]),
            lambda image: shift_hue(image, shift),
        ]
        for number in generator.permutation(len(changes)):
            image = changes[number](image)
        return image


@dataclass(frozen=True)
class EvaluationView:
    """The middle of the image, as ImageNet is evaluated: 224 pixels of 256 along the shorter side.

    Attributes:
        size: side of the square that is cut out; the shorter side of the image is resized to 8/7 of it.
    """

    size: int

    def __call__(self, pixels: Image, _: np.random.Generator) -> Image:
        """Return uint8 [size, size, 3] of uint8 [H, W, 3]."""
        height, width = pixels.shape[:2]
        short, shorter = round(self.size * 8 / 7), min(height, width)
        high, wide = short * height // shorter, short * width // shorter
        image = np.asarray(Pillow.fromarray(pixels).resize((wide, high), Pillow.Resampling.BILINEAR))
        top, left = round((high - self.size) / 2), round((wide - self.size) / 2)
        return image[top : top + self.size, left : left + self.size]
