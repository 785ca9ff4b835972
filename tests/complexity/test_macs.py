from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_nas.complexity.macs import count_macs
from sr_nas.complexity.summary import complexity, per_layer
from sr_nas.networks.imdn import IMDN


def test_the_extrapolation_is_fvcores_own_count_at_full_size() -> None:
    """Counted where it can be afforded: fvcore at 96x80 and the linear formula must agree to the last multiply-add."""
    from fvcore.nn import FlopCountAnalysis

    network = IMDN(3, nf=16, num_blocks=2, genotype="conv_5x5_bn,dil_dsconv_5x5,dsconv_3x3_bn,conv_3x3").eval()
    full = FlopCountAnalysis(network, torch.zeros(1, 3, 96, 80)).unsupported_ops_warnings(False).by_module()
    found = count_macs(network)
    for name, macs in full.items():
        assert found[name].at(96 * 80) == macs, name


def test_layers_add_up() -> None:
    network = IMDN(4)
    rows = per_layer(network)
    assert sum(params for _, _, params, _ in rows) == 715_176
    # What is left is the attention's pooling, which has a functional form and so no layer of its own.
    pooling = 6 * 64 * 1280 * 720
    assert complexity(network)["macs_lr_1280x720"] - sum(macs for *_, macs in rows) == pooling


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_macs(network)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_what_is_not_linear_is_refused() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            flat = x.flatten(2)
            return flat @ flat.transpose(1, 2) @ flat if x.shape[-1] > 16 else self.conv(x)

    with pytest.raises(ValueError, match="not linear"):
        count_macs(Strange())
