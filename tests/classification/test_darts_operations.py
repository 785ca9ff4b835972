"""The operations of the DARTS space, against what its paper says of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import DARTS_CANDIDATES, DARTS_OPERATIONS, FactorizedReduce, SeparableConv, drop_path
from sr_nas.complexity.costs import count_params


def built(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    return DARTS_CANDIDATES.get(name)(channels, stride, affine)


def test_the_table_is_the_papers_and_the_noise_of_s4() -> None:
    assert {*DARTS_OPERATIONS, "noise"} == set(DARTS_CANDIDATES.names())


@pytest.mark.parametrize("name", DARTS_CANDIDATES.names())
@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9)])
def test_stride_2_halves_and_rounds_up(name: str, height: int, width: int) -> None:
    x = torch.rand(2, 4, height, width)
    assert built(name, 4, 1)(x).shape == x.shape
    assert built(name, 4, 2)(x).shape == (2, 4, (height + 1) // 2, (width + 1) // 2)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        # Depthwise k^2 C and pointwise C^2 weights and a BatchNorm of 2 C, twice for sep_conv; no biases.
        ("sep_conv_3x3", 2 * (9 * 16 + 16 * 16 + 32)),
        ("sep_conv_5x5", 2 * (25 * 16 + 16 * 16 + 32)),
        ("dil_conv_3x3", 9 * 16 + 16 * 16 + 32),
        ("dil_conv_5x5", 25 * 16 + 16 * 16 + 32),
        *((name, 0) for name in ("none", "noise", "skip_connect", "max_pool_3x3", "avg_pool_3x3")),
    ],
)
def test_parameters_by_hand(name: str, params: int) -> None:
    assert count_params(built(name, 16, 1)) == params


@pytest.mark.parametrize(("name", "radius", "step"), [("dil_conv_3x3", 2, 2), ("dil_conv_5x5", 4, 2), ("sep_conv_5x5", 4, 1)])
def test_a_convolution_sees_what_its_name_says(name: str, radius: int, step: int) -> None:
    op = built(name, 3, 1).double().eval()
    x = torch.rand(1, 3, 15, 15, dtype=torch.float64, requires_grad=True)
    op(x)[:, :, 7, 7].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum((0, 1, 2)).nonzero().flatten().tolist() == list(range(7 - radius, 8 + radius, step))


def test_average_pooling_does_not_count_what_is_outside() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert built("avg_pool_3x3", 1, 1)(x)[0, 0, 0, 0] == pytest.approx((0 + 1 + 4 + 5) / 4)


def test_factorized_reduction_reads_both_diagonals() -> None:
    torch.manual_seed(0)
    op = FactorizedReduce(3, 6, affine=True).double()
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    even = torch.einsum("oi,nihw->nohw", op.even.weight[:, :, 0, 0], x.relu()[:, :, ::2, ::2])
    odd = torch.einsum("oi,nihw->nohw", op.odd.weight[:, :, 0, 0], x.relu()[:, :, 1::2, 1::2])
    expected = F.batch_norm(torch.cat((even, odd), 1), None, None, training=True)
    torch.testing.assert_close(op(x), expected, rtol=0, atol=1e-12)


def test_noise_is_standard_normal_and_knows_nothing_of_its_input() -> None:
    torch.manual_seed(0)
    op, x = built("noise", 8, 2), torch.full((32, 8, 32, 32), 7.0)
    first, second = op(x), op(x)
    assert not torch.equal(first, second)
    assert first.mean().item() == pytest.approx(0, abs=0.02) and first.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("stride", [1, 2])
def test_training_and_eval_mode_compute_one_convolution(stride: int) -> None:
    torch.manual_seed(0)
    op = SeparableConv(4, 5, stride, 2, affine=False).double()
    op.add_module("3", nn.Identity())
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64, requires_grad=True)
    by_mode = {}
    for training in (True, False):
        result = op.train(training)(x)
        by_mode[training] = (result, *torch.autograd.grad(result.square().sum(), [x, *op.parameters()]))
    torch.testing.assert_close(by_mode[True], by_mode[False], rtol=0, atol=1e-10)


def test_whole_samples_are_dropped_and_the_expectation_stays() -> None:
    torch.manual_seed(0)
    x = torch.rand(20_000, 2, 2, 2) + 1
    result = drop_path(x, 0.3)
    share = (result / x).flatten(1)
    remains = share[:, 0] != 0
    assert ((share != 0) == remains[:, None]).all(), "a sample is kept or dropped as a whole"
    torch.testing.assert_close(share[remains], torch.full_like(share[remains], 1 / 0.7))
    # Three standard deviations of a share of 20,000 draws.
    assert remains.double().mean().item() == pytest.approx(0.7, abs=3 * (0.3 * 0.7 / 20_000) ** 0.5)


def test_nothing_is_drawn_at_0() -> None:
    x, state = torch.rand(2, 3, 4, 4), torch.get_rng_state()
    assert drop_path(x, 0.0) is x and torch.equal(torch.get_rng_state(), state)
