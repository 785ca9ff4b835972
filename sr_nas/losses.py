"""Task losses of super-resolution, by BasicSR's names. To add one, register a function here."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import torch
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.registry import LOSSES


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, and {value} is not")
    return value


LossWeight = Annotated[float, Field(gt=0)]
KernelSize = Annotated[int, Field(ge=3), AfterValidator(_odd)]


@LOSSES.register("L1Loss")
def l1(output: Tensor, target: Tensor, *, loss_weight: LossWeight = 1.0) -> Tensor:
    """``loss_weight`` times the mean absolute difference of two equally shaped tensors."""
    return loss_weight * F.l1_loss(output, target)


@LOSSES.register("MSELoss")
def mse(output: Tensor, target: Tensor, *, loss_weight: LossWeight = 1.0) -> Tensor:
    """``loss_weight`` times the mean squared difference of two equally shaped tensors."""
    return loss_weight * F.mse_loss(output, target)


@LOSSES.register("CharbonnierLoss")
def charbonnier(
    output: Tensor, target: Tensor, *, loss_weight: LossWeight = 1.0, eps: Annotated[float, Field(gt=0)] = 1e-12
) -> Tensor:
    """``loss_weight`` times the mean of ``sqrt((output - target)^2 + eps)``, an L1 that is smooth at 0.

    Lai et al., CVPR 2017, arXiv 1704.03915; ``eps`` is added to the square, as in BasicSR.
    """
    return loss_weight * ((output - target) ** 2 + eps).sqrt().mean()


@LOSSES.register("L1HFENLoss")
def l1_hfen(
    output: Tensor,
    target: Tensor,
    *,
    loss_weight: LossWeight = 1.0,
    hfen_weight: Annotated[float, Field(ge=0)] = 0.2,
    kernel_size: KernelSize = 15,
    sigma: Annotated[float, Field(gt=0)] = 1.5,
) -> Tensor:
    """``loss_weight * (L1 + hfen_weight * HFEN)``: errors of edges and fine detail count more.

    L1 is the mean of ``|output - target|``. HFEN, the high-frequency error norm (Ravishankar & Bresler, IEEE TMI 2011), is
    here the mean of ``|LoG(output) - LoG(target)|``, LoG being :func:`laplacian_of_gaussian`. DLSR trains with a weight of
    0.2 (Huang et al., arXiv 2105.03939).

    Args:
        output: ``[N, C, H, W]``; any value range, in which both terms are measured.
        target: the same shape and range.
        loss_weight: factor of the whole.
        hfen_weight: factor of HFEN.
        kernel_size: side of the filter in pixels; 15 is the paper's.
        sigma: standard deviation of its Gaussian in pixels; 1.5 is the paper's.
    """
    difference = output - target
    # LoG is linear: the difference of the two filtered images is the filtered difference.
    hfen = laplacian_of_gaussian(difference, kernel_size, sigma).abs().mean()
    return loss_weight * (difference.abs().mean() + hfen_weight * hfen)


# Patches must be larger than this function of the loss's options, for which option files are checked.
l1_hfen.needs_above = lambda *, kernel_size, **_: kernel_size // 2  # type: ignore[attr-defined]


def laplacian_of_gaussian(images: Tensor, kernel_size: int = 15, sigma: float = 1.5) -> Tensor:
    """Filter every channel with the Laplacian of a Gaussian, which responds to edges and detail and hardly to flat areas.

    With G the Gaussian of ``kernel_size`` integer samples, normalised to sum 1, and ``G''(x) = (x^2/sigma^4 - 1/sigma^2)
    G(x)``, the filter is ``G''(x) G(y) + G(x) G''(y)``: what SciPy's ``gaussian_laplace`` computes. Its sum is not forced to
    0, and is -9e-6 for 15 samples and sigma 1.5; a filter cut off nearer than about 4 sigma responds to flat areas too.

    Images are ``[N, C, H, W]``, mirrored at the border about the outermost pixel, which is not repeated; height and width must
    be above ``kernel_size // 2``, or :class:`UserError` is raised. Under autocast it is computed in the images' own type, since a
    filter whose weights cancel loses too much to bfloat16. The result has the images' value range per square pixel.
    """
    height, width = images.shape[-2:]
    radius = kernel_size // 2
    if min(height, width) <= radius:
        raise UserError(
            f"a Laplacian of Gaussian of {kernel_size} pixels needs images larger than {radius} pixels, "
            f"and these have {height} x {width}: raise datasets.train.gt_size, or lower train.pixel_opt.kernel_size."
        )
    gaussian = get_gaussian_kernel1d(kernel_size, images.new_full((1, 1), sigma))  # a float would be copied to a GPU, and wait
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    second = (x**2 / sigma**4 - 1 / sigma**2) * gaussian
    device = images.device.type
    with torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext():
        return filter2d_separable(images, second, gaussian) + filter2d_separable(images, gaussian, second)
