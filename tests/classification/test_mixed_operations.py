"""The mixed operation of cells, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import DARTS_CANDIDATES, DARTS_OPERATIONS
from sr_nas.classification.mixed import CellMixedOp

BUILDERS = {name: DARTS_CANDIDATES.get(name) for name in DARTS_OPERATIONS}


def normalised(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_weighted_sum_of_all_candidates(stride: int) -> None:
    torch.manual_seed(0)
    op = CellMixedOp(BUILDERS, 8, stride).double()
    x, weights = torch.randn(3, 8, 6, 10, dtype=torch.float64), torch.rand(8, dtype=torch.float64, requires_grad=True)
    pooled = {
        "max_pool_3x3": normalised(F.max_pool2d(x, 3, stride, 1)),
        "avg_pool_3x3": normalised(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)),
    }
    results = {name: pooled[name] if name in pooled else op.candidates[name](x) for name in DARTS_OPERATIONS}
    assert not results["none"].any()
    expected = sum(weight * results[name] for weight, name in zip(weights, DARTS_OPERATIONS, strict=True))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(op(x, weights), expected, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(op(x, weights).square().sum(), weights)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), weights)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_partial_channel_is_sample_bypass_shuffle(stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    builders = {name: BUILDERS[name] for name in ("skip_connect", "dil_conv_5x5")}
    op = CellMixedOp(builders, 12, stride, partial_channel=3).double()
    x, weights = torch.randn(2, 12, *size, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    first, second = op.candidates.values()
    bypassed = x[:, 4:] if stride == 1 else largest_of_2x2(x[:, 4:])
    joined = torch.cat((0.3 * first(x[:, :4]) + 0.7 * second(x[:, :4]), bypassed), 1)
    # Channel 4 g + i of the joined ones goes to place 3 i + g.
    order = [4 * (place % 3) + place // 3 for place in range(12)]
    torch.testing.assert_close(op(x, weights), joined[:, order], rtol=0, atol=1e-12)


def largest_of_2x2(x: torch.Tensor) -> torch.Tensor:
    """The largest of every two by two pixels; the last row and column of an odd size are their own."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=-torch.inf)
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))


def test_a_share_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="partial_channel 3 must divide 8 and 8 channels"):
        CellMixedOp(BUILDERS, 8, 1, partial_channel=3)


def test_a_search_has_no_scales_and_shifts() -> None:
    norms = [module for module in CellMixedOp(BUILDERS, 8, 2).modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 9 and not any(norm.affine for norm in norms)
