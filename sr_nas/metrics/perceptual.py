"""Learned metrics beside PSNR and SSIM: LPIPS (Zhang et al. 2018) and DISTS (Ding et al. 2020), lower is better.

Both compare the activations of networks trained on ImageNet, as torchmetrics implements them. Its wheel holds their own small
weights; those of AlexNet and VGG-16 are torchvision's, which downloads them once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sr_nas.errors import UserError

PROTOCOL = {
    "lpips": "LPIPS 0.1 with AlexNet, RGB in 0..1, the whole image, mean over the images; lower is better",
    "dists": "DISTS with VGG-16, RGB in 0..1, the whole image, mean over the images; lower is better",
}
BACKBONES = {"lpips": "AlexNet", "dists": "VGG-16"}

Metric = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]
"""(SR, HR), both uint8 [H, W, 3], RGB -> score"""


def perceptual_metrics(names: Sequence[str], device: torch.device) -> dict[str, Metric]:
    """Return the metrics of these names, ``lpips`` or ``dists``, ready to run on the device.

    Raises:
        UserError: torchmetrics or torchvision is not installed, or the weights are neither here nor to be had.
    """
    return {name: _metric(name, device) for name in names}


def _metric(name: str, device: torch.device) -> Metric:
    module = _load(name).to(device).eval()

    def compare(sr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> float:
        sr_tensor, hr_tensor = (
            torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].to(device).float() / 255 for image in (sr, hr)
        )
        with torch.inference_mode():
            value = float(module(sr_tensor, hr_tensor))
        module.reset()
        return value

    return compare


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
