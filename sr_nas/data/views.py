"""What a classifier looks at of images of any size: the crops and colours of ImageNet's usual training and evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageEnhance

from sr_nas.data.classes import Image

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
