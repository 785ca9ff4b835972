"""IMDN against the parameter counts of its paper and of SA-DARTS' tables 3 and 7, and against its authors' definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.costs import complexity, count_params
from sr_nas.networks.imdn import IMDN


@pytest.mark.parametrize(
    ("scale", "params", "macs_lr", "macs_hr"),
    [(2, 694_404, 635.42, 158.85), (3, 703_059, 643.38, 71.49), (4, 715_176, 654.53, 40.91)],
)
def test_published_network(scale: int, params: int, macs_lr: float, macs_hr: float) -> None:
    found = complexity(IMDN(scale))
    assert found["params"] == params
    assert found["macs_lr_1280x720"] / 1e9 == pytest.approx(macs_lr, abs=0.005)
    assert found["macs_hr_1280x720"] / 1e9 == pytest.approx(macs_hr, abs=0.005)


@pytest.mark.parametrize(
    ("genotype", "params"),
    [
        ("conv_5x5_bn, conv_5x5, conv_5x5_bn, conv_5x5_bn", 1_773_672),
        ("dsconv_3x3, conv_3x3, dsconv_3x3_bn, dsconv_5x5", 349_224),
        ("dil_dsconv_3x3, dsconv_3x3, dsconv_3x3, dil_dsconv_3x3", 199_272),
        ("dil_dsconv_3x3_bn, dsconv_3x3, dsconv_3x3, dil_dsconv_3x3", 200_040),
        ("dil_dsconv_3x3, dsconv_3x3, dsconv_3x3_bn, dil_dsconv_3x3", 200_040),
    ],
)
def test_searched_networks_of_the_paper(genotype: str, params: int) -> None:
    assert count_params(IMDN(4, genotype=genotype)) == params


def test_forward_follows_the_published_definition() -> None:
    """The network spelled out once more, straight-line, from the description in Hui et al. 2019, figures 2 to 4."""
    torch.manual_seed(0)
    net = IMDN(3, nf=32, num_blocks=2).double()
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)

    def lrelu(value: torch.Tensor) -> torch.Tensor:
        return torch.where(value > 0, value, 0.05 * value)

    def conv(module: nn.Module, value: torch.Tensor) -> torch.Tensor:
        assert isinstance(module, nn.Conv2d)
        return F.conv2d(value, module.weight, module.bias, padding=module.kernel_size[0] // 2)

    shallow = hidden = conv(net.head, x)
    outputs = []
    for block in net.blocks:
        rest, kept = hidden, []
        for position in range(3):
            out = lrelu(conv(block.convs[position], rest))
            kept.append(out[:, :8])
            rest = out[:, 8:]
        joined = torch.cat([*kept, conv(block.convs[3], rest)], 1)
        mean = joined.flatten(2).mean(-1)
        contrast = ((joined.flatten(2) - mean[..., None]) ** 2).mean(-1).sqrt()
        gate = (contrast + mean)[..., None, None]
        gate = torch.sigmoid(conv(block.attention.gate[2], torch.relu(conv(block.attention.gate[0], gate))))
        hidden = conv(block.fuse, joined * gate) + hidden
        outputs.append(hidden)
    low = conv(net.body, lrelu(conv(net.fuse, torch.cat(outputs, 1)))) + shallow
    expected = conv(net.tail, low).reshape(2, 3, 3, 3, 9, 7).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 27, 21)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_a_constant_image_gives_finite_gradients() -> None:
    """The standard deviation in the attention has an infinite slope at 0."""
    net = IMDN(2, nf=16, num_blocks=1)
    for conv in net.blocks[0].convs:
        nn.init.zeros_(conv.weight)
    net(torch.zeros(1, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_narrow_network_has_a_gate_of_one_channel() -> None:
    attention = IMDN(2, nf=8, num_blocks=1).blocks[0].attention
    assert count_params(attention) == (8 + 1) + (8 + 8)  # down to one channel and up, with biases
    assert IMDN(2, nf=8, num_blocks=1)(torch.rand(1, 3, 5, 4)).shape == (1, 3, 10, 8)
