"""Scores of an upscaler on a set of image pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sr_nas.errors import UserError
from sr_nas.images.resize import upscale_bicubic
from sr_nas.metrics.psnr_ssim import psnr, ssim

Upscale = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""(LR uint8 [h, w, 3], scale) -> SR uint8 [h * scale, w * scale, 3]"""


def bicubic(lr: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge by MATLAB's bicubic ``imresize``, the baseline of every table: uint8 [h, w, 3] -> [h * scale, w * scale, 3].

    Rounded once, at the end, as the output of a network is; MATLAB rounds after each of its two passes as well, which
    costs Set5 .005 dB at x2.
    """
    return np.rint(upscale_bicubic(lr.astype(np.float64), scale).clip(0, 255)).astype(np.uint8)


class ImagePairs(Protocol):
    """What is needed of a set: see :class:`sr_nas.data.pairs.Pairs`."""

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def hr(self, index: int) -> NDArray[np.uint8]: ...

    def lr(self, index: int) -> NDArray[np.uint8]: ...


def evaluate_set(
    upscale: Upscale, pairs: ImagePairs, scale: int, on_image: Callable[[str, dict[str, float]], None] | None = None
) -> dict[str, Any]:
    """Return PSNR in dB and SSIM by :data:`sr_nas.metrics.psnr_ssim.PROTOCOL`.

    Args:
        upscale: what to score.
        pairs: the images.
        scale: enlargement, and the pixels shaved off each side.
        on_image: called with an image's name and scores as soon as they are known.

    Returns:
        ``{"psnr": mean, "ssim": mean, "images": {name: {"psnr": ..., "ssim": ...}}}``, images in the order of the set.

    Raises:
        UserError: the set is empty, or an image cannot be scored; the text names it.
    """
    if not len(pairs):
        raise UserError("there are no images to evaluate on.")
    images: dict[str, dict[str, float]] = {}
    if len(set(pairs.names)) != len(pairs):
        raise UserError("two images of the set have one name, so that their scores cannot be told apart.")
    for index, name in enumerate(pairs.names):
        hr = pairs.hr(index)
        images[name] = score(upscale(pairs.lr(index), scale), hr, scale, name)
        if on_image:
            on_image(name, images[name])
    return {**means(list(images.values())), "images": images}


def score(sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, name: str) -> dict[str, float]:
    """Return ``{"psnr", "ssim"}`` of one image by the protocol; a UserError begins with ``name``."""
    try:
        return {"psnr": psnr(sr, hr, scale), "ssim": ssim(sr, hr, scale)}
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def means(images: Sequence[Mapping[str, float]], metrics: Sequence[str] = ("psnr", "ssim")) -> dict[str, float]:
    """Return the means over images, of which there must be one."""
    return {metric: float(np.mean([scores[metric] for scores in images])) for metric in metrics}
