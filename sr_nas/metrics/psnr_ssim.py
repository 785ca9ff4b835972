"""PSNR and SSIM on the luma of uint8 RGB images, by the protocol of the field's tables."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sr_nas.errors import UserError

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
"""How the numbers are made, for people and for JSON."""


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Y of ITU-R BT.601 in studio range, 16..235 and not rounded: uint8 [H, W, 3] in, float64 [H, W] out."""
    return 16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int) -> float:
    """Peak signal-to-noise ratio of Y in dB; infinite for images that are equal there.

    Args:
        sr: the result, uint8 [H, W, 3], RGB.
        hr: the original, of the same shape.
        scale: pixels to shave off each side.

    Raises:
        TypeError: not uint8.
        UserError: the sizes differ, or nothing is left after shaving.
    """
    sr_luma, hr_luma = _shaved(sr, hr, scale, at_least=1)
    error = float(np.mean((sr_luma - hr_luma) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int) -> float:
    """Structural similarity of Y (Wang et al. 2004, "Image quality assessment", eq. 13), -1..1.

    Args:
        sr: the result, uint8 [H, W, 3], RGB.
        hr: the original, of the same shape.
        scale: pixels to shave off each side.

    Raises:
        TypeError: not uint8.
        UserError: the sizes differ, or less than the 11x11 window is left after shaving.
    """
    from skimage.metrics import structural_similarity

    sr_luma, hr_luma = _shaved(sr, hr, scale, at_least=SSIM_WINDOW)
    # With Gaussian weights scikit-image cuts the kernel at 3.5 sigma, which is 5 pixels to each side, and averages over
    # the region in which the window lies within the image.
    return float(
        structural_similarity(
            sr_luma, hr_luma, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, K1=0.01, K2=0.03
        )
    )


def _shaved(
    sr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, at_least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if sr.dtype != np.uint8 or hr.dtype != np.uint8:
        raise TypeError(f"the protocol compares uint8 images, not {sr.dtype} with {hr.dtype}")
    if sr.shape != hr.shape:
        raise UserError(f"the result has {_size(sr)} pixels, but the original has {_size(hr)}: they cannot be compared.")
    if min(hr.shape[:2]) - 2 * scale < at_least:
        raise UserError(
            f"an image of {_size(hr)} pixels is too small: {at_least}x{at_least} must be left with {scale} shaved off each side."
        )
    inner = slice(scale, -scale or None)
    return luma(sr[inner, inner]), luma(hr[inner, inner])


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
