from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_nas.inference.optimize import folded
from sr_nas.networks.imdn import IMDN
from tests.export.networks import tiny_imdn, with_statistics


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("candidate", ["conv_3x3_bn", "dsconv_5x5_bn", "dil_dsconv_3x3_bn"])
def test_folding_changes_nothing_but_rounding(candidate: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    network = with_statistics(IMDN(2, nf=16, num_blocks=2, genotype=[candidate] * 4)).to(dtype).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fewer = folded(network)
    assert (norms(network), norms(fewer)) == (8, 0)
    x = torch.rand(2, 3, 20, 17, dtype=dtype)
    with torch.inference_mode():
        assert (fewer(x) - network(x)).abs().max() < tolerance
        # The statistics matter: a network without them gives something else.
        plain = IMDN(2, nf=16, num_blocks=2, genotype=[candidate.removesuffix("_bn")] * 4).to(dtype).eval()
        plain.load_state_dict(network.state_dict(), strict=False)
        assert (plain(x) - network(x)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_norm_without_a_convolution_before_it_stays() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    )
    with_statistics(chain).eval()
    fewer = folded(chain)
    assert [type(module).__name__ for module in fewer] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "Conv2d"]
    x = torch.rand(1, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fewer(x), chain(x), rtol=0, atol=1e-5)


def test_a_network_in_training_is_folded_by_its_statistics() -> None:
    network = tiny_imdn()
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = network(x)
        fewer = folded(network.train())
        torch.testing.assert_close(fewer(x), expected, rtol=0, atol=1e-5)
    assert network.training and not fewer.training
