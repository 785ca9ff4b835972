"""Branches against their sums computed one by one, borders included, and against the network that they replace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import reparameterized
from sr_nas.errors import UserError
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.ops.reparam import ECB, KINDS, Branched, Conv3XC, branched
from sr_nas.options.sections import TrainSection

SOBEL = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).double()
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double()
CHANNELS = [(3, 5), (5, 3), (4, 4), (1, 1)]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def moved(kind: str, inputs: int, outputs: int, bias: bool = True, steps: int = 3) -> Branched:
    """A module that imitates a convolution, after some steps of a training, in which no bias and no factor stays 0."""
    module = KINDS[kind](inputs, outputs, bias).imitate(nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (module(torch.rand(2, inputs, 5, 4)) - 1).square().mean().backward()
        optimizer.step()
    return module.eval()


def widened(x: Tensor, bias: Tensor) -> Tensor:
    """Pad ``[N, C, H, W]`` by one pixel of a value for each channel."""
    wide = bias.view(1, -1, 1, 1).repeat(len(x), 1, x.shape[2] + 2, x.shape[3] + 2)
    wide[:, :, 1:-1, 1:-1] = x
    return wide


def one_by_one(module: Any, x: Tensor, border: float = 1.0) -> Tensor:
    """The branches of the papers, each run by itself; the bias at the border of ECB is multiplied by ``border``."""
    y = 0 if module.bias is None else module.bias.view(1, -1, 1, 1)
    if isinstance(module, ECB):
        edge = torch.zeros(len(module.expand.weight)) if module.bias is None else module.expand.bias * border
        y = y + module.conv(x) + module.squeeze(widened(module.expand(x), edge))
        for filter, scale, edge in zip((SOBEL, SOBEL.T, LAPLACE), module.scales, module.edges(x).chunk(3, 1), strict=True):
            weight = scale[:, :, None, None] * filter
            y = y + F.conv2d(edge, weight, padding=1, groups=len(weight))
        return y
    if isinstance(module, Conv3XC):
        inner = F.conv2d(module.expand(F.pad(x, (1, 1, 1, 1))), module.conv.weight)
        return y + module.project(inner) + module.skip(x)
    return module(x)


@pytest.mark.parametrize(("inputs", "outputs"), CHANNELS)
@pytest.mark.parametrize(("kind", "bias"), [*((kind, True) for kind in KINDS), ("ecb", False), ("conv3xc", False)])
def test_one_convolution_is_the_sum_of_the_branches(kind: str, bias: bool, inputs: int, outputs: int) -> None:
    module = moved(kind, inputs, outputs, bias)
    folded, x = module.reparameterize(), torch.randn(2, inputs, 6, 5)
    assert type(folded) is nn.Conv2d and (folded.in_channels, folded.out_channels) == (inputs, outputs)
    assert (folded.bias is not None) == bias
    for output in (module(x), folded(x)):
        torch.testing.assert_close(output, one_by_one(module, x), rtol=0, atol=1e-10)


def test_ecb_padded_with_zeros_is_another_function_at_the_border_alone() -> None:
    module, x = moved("ecb", 4, 4), torch.randn(1, 4, 6, 5)
    difference = (module.reparameterize()(x) - one_by_one(module, x, border=0)).abs()
    assert difference[:, :, 1:-1, 1:-1].max() < 1e-10
    border = difference.clone()
    border[:, :, 1:-1, 1:-1] = 1
    assert border.min() > 1e-6


@pytest.mark.parametrize("kind", ["ecb", "conv3xc"])
def test_gradients_are_those_of_the_branches(kind: str) -> None:
    module, x = moved(kind, 3, 4), torch.randn(2, 3, 6, 5)
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients, wanted = (torch.autograd.grad(f(x).square().sum(), parameters) for f in (module, lambda x: one_by_one(module, x)))
    for name, gradient, other in zip(names, gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-10, msg=name)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_trained_from_the_start_but_behind_a_factor_of_0(kind: str) -> None:
    module = moved(kind, 4, 4, steps=0).train()
    module(torch.rand(2, 4, 6, 5)).square().sum().backward()
    still = {name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert still == ({"point.weight"} if kind == "repconv" else set())


@pytest.mark.parametrize("channels", [3, 4])
def test_repconv_in_training_is_that_of_repvgg(channels: int) -> None:
    module: Any = moved("repconv", 4, channels).train()
    x = torch.randn(2, 4, 6, 5)
    wanted = module.conv(x) + module.bias.view(1, -1, 1, 1)
    for norm, y in zip(module.norms, (module.point(x), x), strict=False):
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), keepdim=True, correction=0)
        wanted = wanted + ((y - mean) / (var + norm.eps).sqrt()) * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(module(x), wanted, rtol=0, atol=1e-10)
    assert len(module.norms) == 1 + (channels == 4)
    torch.testing.assert_close(module(x[:1, :, :1, :1]), module.eval()(x[:1, :, :1, :1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("network", "dense"),
    [
        (IMDN(2, nf=16, num_blocks=1), 3 + 4),  # head, body, tail; a block's convolutions
        (
            DLSR(2, nf=16, num_cells=2, genotype="conv_3x3,dil_conv_3x3,conv_1x1"),
            3 + 2 * 4,
        ),  # a cell's last, its attention
    ],
)
def test_the_network_is_at_its_start_what_it_was_and_again_when_folded(network: Any, dense: int, kind: str) -> None:
    before = {name: tensor.clone() for name, tensor in network.double().state_dict().items()}
    trained, x = branched(network, kind), torch.rand(2, 3, 16, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    without_bias = 2 if isinstance(network, DLSR) and kind != "repconv" else 0  # the first operation of both cells
    assert sum(isinstance(module, KINDS[kind]) for module in trained.modules()) == dense + without_bias
    for mode in (trained.train(), trained.eval(), reparameterized(trained, "training_only")):
        torch.testing.assert_close(mode(x), network(x), rtol=0, atol=1e-10)
    assert {name: tensor.shape for name, tensor in mode.state_dict().items()} == {name: t.shape for name, t in before.items()}


def test_in_16_bits_kernels_are_added_in_32() -> None:
    module = KINDS["ecb"](4, 4, True).float()
    x, (weight, bias) = torch.rand(1, 4, 6, 5).float(), module.merged()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), F.conv2d(x, weight, bias, padding=1))
        assert not torch.equal(module(x), F.conv2d(x, *module.merged(), padding=1))


class Own(nn.Module):
    """A module with branches of its own, beside a shared convolution and those that are not dense."""

    arch = "Own"

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.own = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))
        self.own.reparameterize = lambda: nn.Identity()  # type: ignore[assignment]
        self.others = nn.ModuleList(
            nn.Conv2d(2, 2, **{"kernel_size": 3, "padding": 1} | options)
            for options in (
                {"groups": 2},
                {"stride": 2},
                {"padding": 0},
                {"dilation": 2},
                {"padding_mode": "reflect"},
                {"kernel_size": 1},
            )
        )


def test_what_is_replaced() -> None:
    network: Any = Own()
    trained: Any = branched(network, "ecb")
    assert isinstance(trained.first, ECB) and trained.again is trained.first
    assert sum(isinstance(module, Branched) for module in trained.modules()) == 1
    folded: Any = reparameterized(trained, "training_only")
    assert isinstance(folded.own, nn.Sequential) and type(folded.again) is nn.Conv2d
    assert list(folded.state_dict()) == list(network.state_dict())
    del network.first, network.again
    with pytest.raises(UserError, match=r"train\.reparam: ecb is for dense 3x3 .* and this Own has none"):
        branched(network, "ecb")


def test_the_options_are_the_kinds() -> None:
    assert get_args(TrainSection.model_fields["reparam"].annotation) == ("none", *KINDS)
