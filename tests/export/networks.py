"""Small networks whose BatchNorms have been trained, as far as their statistics show."""

from __future__ import annotations

import torch
from torch import nn

from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN


def tiny_imdn() -> IMDN:
    torch.manual_seed(0)
    network = IMDN(2, nf=16, num_blocks=1, genotype="conv_5x5_bn,dsconv_3x3_bn,dil_dsconv_5x5,conv_3x3")
    with_statistics(network)
    return network.eval()


def tiny_dlsr(num_cells: int = 2) -> DLSR:
    torch.manual_seed(0)
    return DLSR(3, nf=8, num_cells=num_cells, genotype="sep_conv_3x3,dil_conv_5x5,conv_1x1").eval()


def with_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.2, 3.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return network
