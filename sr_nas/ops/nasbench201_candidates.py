"""The five operations of NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326), by the names of its architecture strings.

A candidate is a function of its input and output channels, which an edge of a cell has alike. To add one, register a
function here and name it under ``network_g.candidates`` in an option file; the table of true accuracies knows these five.
"""

from __future__ import annotations

from torch import nn

from sr_nas.ops.classification_candidates import Zero, relu_conv_bn
from sr_nas.registry import Registry

NASBENCH201_CANDIDATES: Registry = Registry("NAS-Bench-201 candidate", "sr_nas.ops.nasbench201_candidates")


@NASBENCH201_CANDIDATES.register()
def none(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return Zero(1)


@NASBENCH201_CANDIDATES.register()
def skip_connect(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return nn.Identity()


@NASBENCH201_CANDIDATES.register()
def nor_conv_1x1(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return relu_conv_bn(in_channels, out_channels, 1, affine=affine)


@NASBENCH201_CANDIDATES.register()
def nor_conv_3x3(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return relu_conv_bn(in_channels, out_channels, 3, affine=affine)


@NASBENCH201_CANDIDATES.register()
def avg_pool_3x3(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
