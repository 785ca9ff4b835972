"""What makes LR images worse than bicubic ones: blur, resizing, noise and JPEG, drawn anew for every patch of a training.

The steps are those of BSRGAN (Zhang et al. 2021) and Real-ESRGAN (Wang et al. 2021). Each is a registered function of
``(image, random, size)`` and its options: float32 pixels [H, W, 3] of RGB in 0..255, which it returns changed and does not
change in place; the generator that it draws from; and height and width of the LR image, whatever size the image has by then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from annotated_types import Gt, Le
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from sr_nas.data.loader import PatchDataset, orient
from sr_nas.data.sources import Image, Pairs
from sr_nas.errors import shortened
from sr_nas.images.resize import imresize
from sr_nas.registry import DEGRADATIONS

Pixels = NDArray[np.float32]
Size = tuple[int, int]
Random = np.random.Generator

MARGIN, HR_MARGIN = 16, 8
"""LR pixels around a patch, where steps begin with LR and with HR, that go through them too, so that filters at its edges see
the image; and multiples of which these begin and end at: a block of JPEG, with its colour and without."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _between(least: float, most: float) -> AfterValidator:
    def check(values: tuple[float, float]) -> tuple[float, float]:
        if not least <= values[0] <= values[1] <= most:
            raise ValueError(f"[{values[0]:g}, {values[1]:g}] is no range within {least:g} to {most:g}, the least first")
        return values

    return AfterValidator(check)


def _as_pair(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a number or [least, most] is expected (found {shortened(value)})")
    return value, value


Range = Annotated[tuple[float, float], BeforeValidator(_as_pair, json_schema_input_type=float | tuple[float, float])]
"""Option: ``[least, most]``, uniformly drawn between them, or one number."""
Share = Annotated[float, Field(ge=0, le=1)]
Kernel = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc"]
Mode = Literal["area", "bilinear", "bicubic", "imresize"]
Modes = Annotated[tuple[Mode, ...], Field(min_length=1)]
ANY_MODE: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
OPENCV_MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@DEGRADATIONS.register()
def blur(
    image: Pixels,
    random: Random,
    size: Size,
    *,
    kernels: Annotated[dict[Kernel, Annotated[float, Gt(0), Le(10**6)]], Field(min_length=1)] | None = None,
    kernel_size: Annotated[Range, _between(1, 99)] = (7, 21),
    sigma: Annotated[Range, _between(0.01, 100)] = (0.2, 3.0),
    generalized_beta: Annotated[Range, _between(0.01, 100)] = (0.5, 4.0),
    plateau_beta: Annotated[Range, _between(0.01, 100)] = (1.0, 2.0),
    cutoff: Annotated[Range, _between(0.01, math.pi)] = (math.pi / 3, math.pi),
) -> Pixels:
    """Filter by a random kernel.

    Args:
        kernels: kernel -> how often it is drawn; by default always ``iso``, a round Gaussian.
        kernel_size: side in pixels, drawn from the odd numbers in this range; an even end counts as the next odd number.
        sigma: standard deviation in pixels; of an ``aniso`` kernel along each axis, at a random angle.
        generalized_beta: exponent of exp(-d^(2 beta) / 2), d the distance in sigma; half of the draws are below 1.
        plateau_beta: exponent of 1 / (1 + d^(2 beta)); half of the draws are below 1, where the range is.
        cutoff: of ``sinc``, the low-pass filter that rings: angular frequency per pixel, pi for none.
    """
    kinds = {"iso": 1.0} if kernels is None else kernels
    weights = np.array(list(kinds.values()))
    kind = list(kinds)[random.choice(len(kinds), p=weights / weights.sum())]
    radius = int(random.integers(round(kernel_size[0]) // 2, round(kernel_size[1]) // 2 + 1))
    if kind == "sinc":
        kernel = sinc_kernel(radius, random.uniform(*cutoff))
    else:
        along, across, angle = random.uniform(*sigma), random.uniform(*sigma), random.uniform(0, math.pi)
        family = kind.split("_")[0]
        low, high = {"generalized": generalized_beta, "plateau": plateau_beta}.get(family, (1.0, 1.0))
        middle = min(max(low, 1.0), high)
        beta = random.uniform(*((low, middle) if random.random() < 0.5 else (middle, high)))
        kernel = gaussian_kernel(radius, along, across if kind.endswith("aniso") else along, angle, beta, family == "plateau")
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)


def gaussian_kernel(
    radius: int, along: float, across: float, angle: float, beta: float = 1.0, plateau: bool = False
) -> NDArray[np.float64]:
    """Kernel of side 2 radius + 1 and sum 1: exp(-d^(2 beta) / 2), or with ``plateau`` 1 / (1 + d^(2 beta)).

    d is the distance from the centre in standard deviations: ``along`` the axis that is turned by ``angle`` from the rows, and
    ``across`` it. beta 1 is the Gaussian (Wang et al. 2021, section 3.1).
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    with np.errstate(over="ignore"):  # far from the centre of a small kernel, where it is 0
        power = ((u / along) ** 2 + (v / across) ** 2) ** beta
    kernel = 1 / (1 + power) if plateau else np.exp(-power / 2)
    return np.asarray(kernel / kernel.sum())


def sinc_kernel(radius: int, cutoff: float) -> NDArray[np.float64]:
    """Round low-pass filter cutoff J1(cutoff r) / (2 pi r) of side 2 radius + 1 and sum 1 (Wang et al. 2021, eq. 6)."""
    r = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]).clip(1e-6)  # instead of the limit at 0
    kernel = cutoff * torch.special.bessel_j1(torch.from_numpy(cutoff * r)).numpy() / (2 * math.pi * r)
    return np.asarray(kernel / kernel.sum())


def _resized(image: Pixels, size: Size, modes: Sequence[Mode], random: Random) -> Pixels:
    mode = modes[int(random.integers(len(modes)))]
    if mode == "imresize":
        return imresize(image, *size)
    return np.asarray(cv2.resize(image, size[::-1], interpolation=OPENCV_MODES[mode]), np.float32)


@DEGRADATIONS.register()
def resize(
    image: Pixels,
    random: Random,
    size: Size,
    *,
    factor: Annotated[Range, _between(0.01, 8)] = (0.15, 1.5),
    up: Share | None = None,
    of: Literal["image", "lr"] = "image",
    modes: Modes = ANY_MODE,
) -> Pixels:
    """Resize by a random factor. What follows, or the end of the list, brings LR to its size.

    Args:
        factor: new size over that of the image as it comes, or with ``of: lr`` over that of LR.
        up: how often the factor is drawn from the part of its range above 1; by default as often as that part is long. Where
            the range has no such part, the factor is then 1.
        of: see factor.
        modes: of which one is drawn. ``bilinear`` and ``bicubic`` are OpenCV's, without antialiasing, ``imresize`` is MATLAB's.
    """
    low, high = factor
    if up is not None:
        low, high = (max(low, 1.0), max(high, 1.0)) if random.random() < up else (min(low, 1.0), min(high, 1.0))
    drawn = random.uniform(low, high)
    height, width = size if of == "lr" else image.shape[:2]
    return _resized(image, (max(1, round(height * drawn)), max(1, round(width * drawn))), modes, random)


@DEGRADATIONS.register()
def downscale(image: Pixels, random: Random, size: Size, *, modes: Modes = ANY_MODE) -> Pixels:
    """Resize to the size of LR. Where it is in the list, the steps begin with HR; else with LR, as the data set has it.

    Args:
        modes: as of resize.
    """
    return _resized(image, size, modes, random)


@DEGRADATIONS.register()
def noise(
    image: Pixels,
    random: Random,
    size: Size,
    *,
    sigma: Annotated[Range, _between(0, 255)] = (1.0, 30.0),
    poisson: Share = 0.0,
    scale: Annotated[Range, _between(0, 100)] = (0.05, 3.0),
    grey: Share = 0.4,
) -> Pixels:
    """Add Gaussian or Poisson noise, then clip to 0..255.

    Args:
        sigma: standard deviation of Gaussian noise, of 255.
        poisson: how often the noise is Poisson's, which grows with the root of the brightness.
        scale: factor of Poisson's noise; 1 is that of pixels that count as many photons as their value.
        grey: how often the noise is the same in all colours.
    """
    image = image.clip(0, 255)
    by_brightness, strength = random.random() < poisson, random.uniform(0, 1)
    low, high = scale if by_brightness else sigma
    base = (image @ LUMA)[..., None] if random.random() < grey else image
    added = random.poisson(base) - base if by_brightness else random.standard_normal(base.shape, np.float32)
    return (image + np.float32(low + strength * (high - low)) * added.astype(np.float32)).clip(0, 255)


@DEGRADATIONS.register()
def jpeg(image: Pixels, random: Random, size: Size, *, quality: Annotated[Range, _between(1, 100)] = (50, 95)) -> Pixels:
    """Compress as JPEG with colour at half the resolution (4:2:0), as cameras and most programs do.

    Args:
        quality: of libjpeg, a whole number in this range.
    """
    level = int(random.integers(round(quality[0]), round(quality[1]) + 1))
    pixels = np.ascontiguousarray(_rounded(image)[..., ::-1])
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, level])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1].astype(np.float32)


def _rounded(image: Pixels) -> Image:
    return np.rint(image).clip(0, 255).astype(np.uint8)


class Degradation:
    """A list of steps as a function of an image; it can be pickled.

    ``steps`` are the sections of an option file. Neighbours with ``shuffle`` are taken in random order.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        # What is not shuffled is a group of its own.
        groups = groupby(enumerate(steps), lambda item: -1 if item[1].shuffle else item[0])
        self.groups = [[(DEGRADATIONS.build(step), step.probability) for _, step in group] for _, group in groups]
        self.begins_with_hr = any(step.type == "downscale" for step in steps)

    def __call__(self, lr: Image, hr: Image, random: Random) -> Image:
        """Return LR made worse, or made of HR: uint8 [H, W, 3] of the size of ``lr``, drawing from ``random`` alone."""
        size = lr.shape[:2]
        image = (hr if self.begins_with_hr else lr).astype(np.float32)
        for group in self.groups:
            for number in random.permutation(len(group)):
                step, probability = group[number]
                if random.random() < probability:
                    image = step(image, random, size)
        return _rounded(image if image.shape[:2] == size else downscale(image, random, size))


class DegradedPatches(PatchDataset):
    """Random training patches whose LR goes through a :class:`Degradation`, drawn by ``(seed, draw)`` as crop and flips are.

    The steps see :data:`MARGIN` LR pixels or more to all sides of a patch, where the image has them. These begin and end on
    blocks of the image's JPEG: a patch is cut through blocks as any part of a photo is.
    """

    def __init__(self, steps: Sequence[Any], pairs: Pairs, *args: Any, **keywords: Any) -> None:
        super().__init__(pairs, *args, **keywords)
        self.degrade = Degradation(steps)

    def low_patch(self, lr: Image, hr: Image, top: int, left: int, orientation: tuple[bool, bool, bool], random: Random) -> Image:
        size, hflip, vflip, transpose = self.gt_size // self.pairs.scale, *orientation
        margin = HR_MARGIN if self.degrade.begins_with_hr else MARGIN
        above, below = _surroundings(top, size, lr.shape[0], margin)
        before, behind = _surroundings(left, size, lr.shape[1], margin)
        # JPEG is not the same in all orientations, so the images are turned before.
        low, high = (
            orient(image[above * scale : below * scale, before * scale : behind * scale], *orientation)
            for image, scale in ((lr, 1), (hr, self.pairs.scale))
        )
        corner = (below - top - size if vflip else top - above, behind - left - size if hflip else left - before)
        down, right = corner[::-1] if transpose else corner
        return self.degrade(low, high, random)[down : down + size, right : right + size]


def _surroundings(first: int, size: int, length: int, margin: int) -> tuple[int, int]:
    start, stop = max(0, first - margin) // margin * margin, -(-(first + size + margin) // margin) * margin
    return start, min(stop, length)


def degraded(pairs: Pairs, steps: Sequence[Any]) -> Pairs:
    """Return pairs whose whole LR images go through the steps, drawn by the number of the image alone: always the same."""
    return replace(pairs, read_lr=partial(_degraded_lr, pairs, Degradation(steps)))


def _degraded_lr(pairs: Pairs, degrade: Degradation, index: int) -> Image:
    return degrade(pairs.lr(index), pairs.hr(index), np.random.default_rng(index))
