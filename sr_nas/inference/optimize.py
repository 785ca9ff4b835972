"""BatchNorm folded into the convolution before it: the same function with fewer layers."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)


def folded(network: Module) -> Module:
    """Return a copy, in eval mode, in which every BatchNorm that directly follows a convolution in a Sequential is part of it.

    In eval mode a BatchNorm is a factor and a summand per channel, which a convolution's weights and bias can hold
    (Jacob et al. 2018, section 3.2). A BatchNorm that no convolution precedes stays. The output is the same to rounding:
    within 1e-5 in float32 for outputs around 0..1.

    Args:
        network: left as it is.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return network


def _fold(chain: nn.Sequential) -> None:
    for index in range(len(chain) - 2, -1, -1):
        conv, norm = chain[index], chain[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            chain[index] = fuse_conv_bn_eval(conv, norm)
            del chain[index + 1]
