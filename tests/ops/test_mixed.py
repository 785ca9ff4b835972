from __future__ import annotations

import pytest
import torch

from sr_nas.networks.imdn import IMDN_CANDIDATES
from sr_nas.ops.mixed import MixedOp

BUILDERS = {name: IMDN_CANDIDATES.get(name) for name in IMDN_CANDIDATES.names()}


def test_the_table_is_the_papers() -> None:
    kinds = [f"{kind}_{kernel}" for kind in ("conv", "dsconv", "dil_dsconv") for kernel in ("3x3", "5x5")]
    assert set(BUILDERS) == {*kinds, *(f"{kind}_bn" for kind in kinds)}


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_candidate_keeps_the_size_and_sees_what_its_name_says(name: str) -> None:
    kernel, dilation = int(name.split("x")[1][0]), 2 if name.startswith("dil") else 1
    op = BUILDERS[name](6, 4).double().eval()
    x = torch.zeros(1, 6, 15, 15, dtype=torch.float64)
    x[:, :, 7, 7] = 1
    seen = (op(x) - op(torch.zeros_like(x))).abs().sum(1)[0]
    rows = seen.sum(1).nonzero().flatten().tolist()
    assert rows == [7 + dilation * step for step in range(-(kernel // 2), kernel // 2 + 1)]


def test_weighted_sum() -> None:
    torch.manual_seed(0)
    op = MixedOp(BUILDERS, 8, 12).double()
    x, weights = torch.rand(2, 8, 6, 5, dtype=torch.float64), torch.rand(12, dtype=torch.float64)
    expected = sum(weight * candidate(x) for weight, candidate in zip(weights, op.candidates.values(), strict=True))
    torch.testing.assert_close(op(x, weights), expected, rtol=0, atol=1e-12)


def test_partial_channel_is_sample_bypass_shuffle() -> None:
    torch.manual_seed(0)
    op = MixedOp({"conv_3x3": BUILDERS["conv_3x3"], "conv_5x5": BUILDERS["conv_5x5"]}, 12, 16, partial_channel=4).double()
    x, weights = torch.rand(1, 12, 5, 5, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    first, second = op.candidates.values()
    mixed = 0.3 * first(x[:, :3]) + 0.7 * second(x[:, :3])
    joined = torch.cat([mixed, op.bypass(x[:, 3:])], 1)
    assert (mixed.shape[1], joined.shape[1]) == (4, 16)
    # PC-DARTS' shuffle: seen as a 4 x 4 table of channels, it is transposed.
    order = [row * 4 + column for column in range(4) for row in range(4)]
    torch.testing.assert_close(op(x, weights), joined[:, order], rtol=0, atol=1e-12)


def test_the_bypass_is_the_identity_where_channels_agree() -> None:
    op = MixedOp(BUILDERS, 16, 16, partial_channel=4)
    assert isinstance(op.bypass, torch.nn.Identity)


def test_k_of_one_is_the_full_operation_to_the_bit() -> None:
    torch.manual_seed(0)
    full = MixedOp(BUILDERS, 8, 8)
    torch.manual_seed(0)
    partial = MixedOp(BUILDERS, 8, 8, partial_channel=1)
    x, weights = torch.rand(1, 8, 5, 5), torch.rand(12)
    assert torch.equal(full(x, weights), partial(x, weights))


def test_k_must_divide_both_channel_counts() -> None:
    with pytest.raises(ValueError, match="must divide 12 and 8"):
        MixedOp(BUILDERS, 12, 8, partial_channel=3)
