"""The candidates of a mixed residual block of DLSR (Huang et al. 2021, arXiv 2105.03939).

A candidate is a function of its input and output channels. None has a bias or a BatchNorm, and the depthwise ones begin
with a ReLU: only so do released weights load and the parameter counts come out. To add one, register a function here and
name it under ``network_g.candidates`` in an option file.
"""

from __future__ import annotations

from torch import nn

from sr_nas.registry import Registry

DLSR_CANDIDATES: Registry = Registry("DLSR candidate", "sr_nas.ops.dlsr_candidates")


def convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """Dense convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)


def dilated(in_channels: int, out_channels: int, kernel: int, dilation: int = 2) -> nn.Sequential:
    """ReLU, depthwise convolution with gaps, pointwise convolution."""
    depthwise = nn.Conv2d(
        in_channels,
        in_channels,
        kernel,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False))


def separable(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """ReLU, depthwise and pointwise convolution, twice (DARTS, Liu et al. 2019)."""
    return nn.Sequential(*dilated(in_channels, in_channels, kernel, 1), *dilated(in_channels, out_channels, kernel, 1))


@DLSR_CANDIDATES.register()
def conv_1x1(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 1)


@DLSR_CANDIDATES.register()
def conv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 3)


@DLSR_CANDIDATES.register()
def conv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 5)


@DLSR_CANDIDATES.register()
def conv_7x7(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 7)


@DLSR_CANDIDATES.register()
def sep_conv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return separable(in_channels, out_channels, 3)


@DLSR_CANDIDATES.register()
def sep_conv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return separable(in_channels, out_channels, 5)


@DLSR_CANDIDATES.register()
def sep_conv_7x7(in_channels: int, out_channels: int) -> nn.Module:
    return separable(in_channels, out_channels, 7)


@DLSR_CANDIDATES.register()
def dil_conv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return dilated(in_channels, out_channels, 3)


@DLSR_CANDIDATES.register()
def dil_conv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return dilated(in_channels, out_channels, 5)
