"""Drop-path: an operation's whole output is left out for some samples (Larsson et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.fused_forms import depthwise
from sr_nas.registry import Registry


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set whole samples to zero and scale the others so that the expectation stays.

    Args:
        x: ``[N, C, H, W]``.
        probability: of a sample to be dropped, in [0, 1).

    Returns:
        ``x * mask / (1 - probability)`` with one Bernoulli draw of torch's generator per sample; ``x`` itself at 0.
    """
    if not probability:
        return x
    kept = 1 - probability
    # Not bernoulli_, which takes no number that changes in a compiled network: that would be compiled anew every epoch.
    return x * ((torch.rand(x.shape[0], 1, 1, 1, device=x.device) < kept).to(x.dtype) / kept)


# MERGED sr_nas.classification.darts_operations: The auxiliary classifier that helps a DARTS network train; it is no part of
# what the network computes afterwards.


class AuxiliaryHead(nn.Module):
    """ReLU, average pooling, two convolutions, classifier (Liu et al. 2019, after Inception).

    Args:
        channels: of the features.
        num_classes: number of logits.
        stride: of the pooling: 3 for features of 8x8 (CIFAR), 2 for 7x7 (ImageNet).
        last_norm: whether a BatchNorm follows the second convolution. The published ImageNet networks were trained without.
    """

    def __init__(self, channels: int, num_classes: int, stride: int, last_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if last_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[N, channels, H, W]`` to logits; what is larger than 8x8 (7x7) is averaged at the end."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


# MERGED sr_nas.classification.darts_operations: The candidates of the DARTS space (Liu et al. 2019), and the
# noise of its reduced space S4 (Zela et al. 2020).
#
# A candidate is a function of its channels, its stride (1, or 2 to halve height and width, rounded up) and
# whether its BatchNorm
# is affine. To add one, register a function here and name it under ``network_g.candidates`` in an option file.


CellBuilder = Callable[[int, int, bool], nn.Module]

DARTS_CANDIDATES = Registry("DARTS candidate", "sr_nas.classification.darts_operations")

DARTS_OPERATIONS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
"""The eight operations of the DARTS paper, in the order of its tables."""


def relu_conv_bn(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, affine: bool = True) -> nn.Sequential:
    """ReLU, convolution without bias, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


class FactorizedReduce(nn.Module):
    """ReLU, two pointwise convolutions of stride 2, one of them a pixel further down and right, joined, BatchNorm.

    It halves height and width, rounded up, and drops no pixel of an even size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result, two or more.
        affine: whether the BatchNorm has a scale and a shift.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = nn.Conv2d(in_channels, half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, ceil(H/2), ceil(W/2)]``."""
        x = F.relu(x)
        # The line and column of zeros are read where a side is odd; an even side never reaches them.
        further = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        return self.norm(torch.cat((self.even(x), self.odd(further)), dim=1))


class SeparableConv(nn.Sequential):
    """ReLU, depthwise convolution, pointwise convolution, both without bias, BatchNorm.

    Args:
        channels: of the input and the result.
        kernel: side of the depthwise kernel, odd.
        stride: 1, or 2 to halve height and width, rounded up.
        dilation: distance of the kernel's taps.
        affine: whether the BatchNorm has a scale and a shift.
    """

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, channels, ceil(H/stride), ceil(W/stride)]``."""
        relu, depth, pointwise, norm = self
        x, first = relu(x), cast(nn.Conv2d, depth)
        # Gradients that are faster on a CPU; in eval mode it is PyTorch's own, which counters and exporters know.
        fast = self.training and first.stride == (1, 1)
        x = depthwise(x, first.weight, first.bias, first.dilation[0]) if fast else first(x)
        return norm(pointwise(x))


class Zero(nn.Module):
    """Zeros of the size that a convolution of this stride returns."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to zeros."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise instead of the input, drawn anew each time, in eval mode too."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to noise."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def _twice_separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(SeparableConv(channels, kernel, stride, 1, affine), SeparableConv(channels, kernel, 1, 1, affine))


@DARTS_CANDIDATES.register()
def none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)


@DARTS_CANDIDATES.register()
def max_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, padding=1)


@DARTS_CANDIDATES.register()
def avg_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


@DARTS_CANDIDATES.register()
def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


@DARTS_CANDIDATES.register()
def sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return _twice_separable(channels, 3, stride, affine)


@DARTS_CANDIDATES.register()
def sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return _twice_separable(channels, 5, stride, affine)


@DARTS_CANDIDATES.register()
def dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return SeparableConv(channels, 3, stride, 2, affine)


@DARTS_CANDIDATES.register()
def dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return SeparableConv(channels, 5, stride, 2, affine)


@DARTS_CANDIDATES.register()
def noise(channels: int, stride: int, affine: bool) -> nn.Module:
    return Noise(stride)
