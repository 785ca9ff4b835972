"""Image quality: PSNR and SSIM by the protocol of the field's tables, and the learned metrics LPIPS and DISTS."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from sr_nas.errors import UserError
from sr_nas.images.resize import upscale_bicubic

SSIM_WINDOW = 11

PROTOCOL: dict[str, str] = {
    "lr": "HR cropped to a multiple of the scale, then MATLAB's bicubic imresize (a = -0.5, antialias, symmetric border), "
    "rounded to uint8 after each of its two passes",
    "output": "clipped and rounded to uint8 RGB",
    "luma": "Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 (BT.601, studio range), floating point",
    "shave": "as many pixels off each side as the scale",
    "psnr": "peak 255, per image, then the mean over the images",
    "ssim": "Wang et al. 2004: 11x11 Gaussian window, sigma 1.5, K 0.01 and 0.03, L 255, valid region, mean over the images",
    "grey": "converted to RGB before anything else",
}
"""The protocol of PSNR and SSIM in words, for people and for JSON."""
PERCEPTUAL_PROTOCOL = {
    "lpips": "LPIPS 0.1 with AlexNet, RGB in 0..1, the whole image, mean over the images; lower is better",
    "dists": "DISTS with VGG-16, RGB in 0..1, the whole image, mean over the images; lower is better",
}
BACKBONES = {"lpips": "AlexNet", "dists": "VGG-16"}

Image = NDArray[np.uint8]
Upscale = Callable[[Image, int], Image]
"""(LR uint8 [h, w, 3], scale) -> SR uint8 [h * scale, w * scale, 3]"""
Metric = Callable[[Image, Image], float]
"""(SR, HR), both uint8 [H, W, 3], RGB -> score"""


class ImagePairs(Protocol):
    """The part of :class:`sr_nas.data.sources.Pairs` that is needed here."""

    @property
    def names(self) -> Sequence[str]: ...

    def hr(self, index: int) -> Image: ...

    def lr(self, index: int) -> Image: ...


def luma(rgb: Image) -> NDArray[np.float64]:
    """Return Y of ITU-R BT.601 in studio range, 16..235 and not rounded: uint8 [H, W, 3] in, float64 [H, W] out."""
    return 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(sr: Image, hr: Image, scale: int) -> float:
    """Peak signal-to-noise ratio of Y in dB; infinite for images that are equal there.

    Both are uint8 [H, W, 3], RGB; ``scale`` pixels are shaved off each side. A UserError if sizes differ or nothing is left.
    """
    sr_luma, hr_luma = _shaved_luma(sr, hr, scale, at_least=1)
    error = float(np.mean((sr_luma - hr_luma) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(sr: Image, hr: Image, scale: int) -> float:
    """Structural similarity of Y (Wang et al. 2004, eq. 13), -1..1; as :func:`psnr`, but an 11x11 window must be left."""
    sr_luma, hr_luma = _shaved_luma(sr, hr, scale, at_least=SSIM_WINDOW)
    # scikit-image cuts Gaussian weights at 3.5 sigma, 5 pixels to each side, and averages where the window is inside the image.
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "K1": 0.01, "K2": 0.03}
    return float(structural_similarity(sr_luma, hr_luma, data_range=255, **settings))


def _shaved_luma(sr: Image, hr: Image, scale: int, at_least: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if sr.dtype != np.uint8 or hr.dtype != np.uint8:
        raise TypeError(f"the protocol compares uint8 images, not {sr.dtype} with {hr.dtype}")
    sr_size, hr_size = (f"{image.shape[1]}x{image.shape[0]}" for image in (sr, hr))
    if sr.shape != hr.shape:
        raise UserError(f"the result has {sr_size} pixels, but the original has {hr_size}: they cannot be compared.")
    if min(hr.shape[:2]) - 2 * scale < at_least:
        raise UserError(
            f"an image of {hr_size} pixels is too small: {at_least}x{at_least} must be left with {scale} shaved off each side."
        )
    inner = slice(scale, -scale or None)
    return luma(sr[inner, inner]), luma(hr[inner, inner])


def bicubic(lr: Image, scale: int) -> Image:
    """Enlarge by MATLAB's bicubic ``imresize``, the baseline of every table: uint8 [h, w, 3] -> [h * scale, w * scale, 3].

    Rounded once, at the end, as the output of a network is; MATLAB rounds after each of its two passes as well, which
    costs Set5 .005 dB at x2.
    """
    return np.rint(upscale_bicubic(lr.astype(np.float64), scale).clip(0, 255)).astype(np.uint8)


def evaluate_set(
    upscale: Upscale, pairs: ImagePairs, scale: int, on_image: Callable[[str, dict[str, float]], None] | None = None
) -> dict[str, Any]:
    """Score an upscaler on a set by PSNR in dB and SSIM, see :data:`PROTOCOL`; ``on_image`` gets every name and its scores.

    Returns:
        ``{"psnr": mean, "ssim": mean, "images": {name: {"psnr": ..., "ssim": ...}}}``, images in the order of the set.

    Raises:
        UserError: the set is empty, two images have one name, or an image cannot be scored; the text names it.
    """
    if not pairs.names:
        raise UserError("there are no images to evaluate on.")
    if len(set(pairs.names)) < len(pairs.names):
        raise UserError("two images of the set have one name, so that their scores cannot be told apart.")
    images: dict[str, dict[str, float]] = {}
    for index, name in enumerate(pairs.names):
        hr = pairs.hr(index)
        images[name] = score(upscale(pairs.lr(index), scale), hr, scale, name)
        if on_image:
            on_image(name, images[name])
    return {**means(list(images.values())), "images": images}


def score(sr: Image, hr: Image, scale: int, name: str) -> dict[str, float]:
    """Return ``{"psnr", "ssim"}`` of one image; the text of a UserError begins with ``name``."""
    try:
        return {"psnr": psnr(sr, hr, scale), "ssim": ssim(sr, hr, scale)}
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def means(images: Sequence[Mapping[str, float]], metrics: Sequence[str] = ("psnr", "ssim")) -> dict[str, float]:
    """Return the mean of every metric over the images, of which there must be at least one."""
    return {metric: float(np.mean([scores[metric] for scores in images])) for metric in metrics}


def perceptual_metrics(names: Sequence[str], device: torch.device) -> dict[str, Metric]:
    """Return learned metrics, ready to run on the device; lower is better.

    ``"lpips"`` (Zhang et al. 2018) and ``"dists"`` (Ding et al. 2020) compare activations of networks trained on ImageNet, as
    torchmetrics implements them. The weights of AlexNet and VGG-16 are torchvision's, which downloads them once.

    Raises:
        UserError: torchmetrics or torchvision is not installed, or the weights can neither be found nor downloaded.
    """
    return {name: functools.partial(_distance, _load(name).to(device).eval(), device) for name in names}


def _distance(module: Any, device: torch.device, sr: Image, hr: Image) -> float:
    tensors = torch.from_numpy(np.stack([sr, hr])).permute(0, 3, 1, 2).to(device).float() / 255
    with torch.inference_mode():
        value = float(module(*tensors.split(1)))
    module.reset()
    return value


def _load(name: str) -> Any:
    try:
        importlib.import_module("torchvision")  # without it torchmetrics fails in ways of its own
        if name == "lpips":
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
        from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

        return DeepImageStructureAndTextureSimilarity()
    except ImportError as error:
        raise UserError(
            f"perceptual: {name} needs torchmetrics and torchvision, which are not both installed ({error}). "
            "pip install 'sr_nas[perceptual]', or take it out of the option perceptual."
        ) from error
    except OSError as error:  # urllib's errors are OSErrors
        raise UserError(
            f"perceptual: {name} needs the weights of {BACKBONES[name]}, which torchvision downloads once, and that failed: "
            f"{error}. Without internet, copy the file whose address is printed above into "
            f"{torch.hub.get_dir()}/checkpoints, or take {name} out of the option perceptual."
        ) from error
