"""The candidates that may replace a 3x3 convolution of an IMD block (SA-DARTS, section 4.4.1).

A candidate is a function of its input and output channels. To add one, register a function here and name it under
``network_g.candidates`` in an option file.
"""

from __future__ import annotations

from torch import nn

from sr_nas.registry import Registry

IMDN_CANDIDATES: Registry = Registry("IMDN candidate", "sr_nas.ops.imdn_candidates")


def convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """Dense convolution that keeps height and width; with bias."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)


def depthwise_separable(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Depthwise convolution, then a pointwise one. Both carry a bias: only so do the paper's parameter counts come out."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def followed_by_batch_norm(module: nn.Module, out_channels: int) -> nn.Module:
    """The module with an affine BatchNorm behind it."""
    parts = list(module) if isinstance(module, nn.Sequential) else [module]
    return nn.Sequential(*parts, nn.BatchNorm2d(out_channels))


@IMDN_CANDIDATES.register()
def conv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 3)


@IMDN_CANDIDATES.register()
def conv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 5)


@IMDN_CANDIDATES.register()
def dsconv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 3)


@IMDN_CANDIDATES.register()
def dsconv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 5)


@IMDN_CANDIDATES.register()
def dil_dsconv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 3, dilation=2)


@IMDN_CANDIDATES.register()
def dil_dsconv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 5, dilation=2)


@IMDN_CANDIDATES.register()
def conv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(conv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def conv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(conv_5x5(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dsconv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dsconv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dsconv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dsconv_5x5(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dil_dsconv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dil_dsconv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dil_dsconv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dil_dsconv_5x5(in_channels, out_channels), out_channels)
