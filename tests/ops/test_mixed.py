"""The mixed operation against its formula; recomputed blocks against kept ones: values, gradients of both orders, statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call

from sr_nas.complexity.memory import extrapolated_peak
from sr_nas.networks.imdn import IMDN_CANDIDATES, IMDN_OPERATIONS
from sr_nas.ops.mixed import MixedOp
from sr_nas.registry import SPACES

BUILDERS = {name: IMDN_CANDIDATES.get(name) for name in IMDN_OPERATIONS}
SMALL: dict[str, dict[str, Any]] = {"IMDN": {"nf": 16, "num_blocks": 1}, "DLSR": {"nf": 16, "num_cells": 3}}


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


def pair(name: str, execution: str, **more: int) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    kept, again = (
        SPACES.get(name)(scale=2, **(SMALL[name] | more), execution=execution, checkpointing=checkpointing).double()
        for checkpointing in (False, True)
    )
    again.load_state_dict(kept.state_dict())
    return kept, again, {label: torch.rand(len(c.candidates), dtype=torch.float64) for label, c in kept.choices().items()}


@pytest.mark.long
@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("name", list(SMALL))
def test_gradients_of_both_orders_and_statistics_are_those_of_what_is_kept(name: str, execution: str) -> None:
    kept, again, start = pair(name, execution)
    x, found = torch.rand(2, 3, 8, 8, dtype=torch.float64), []
    for space in (kept, again):
        weights = {label: weight.clone().requires_grad_() for label, weight in start.items()}
        inputs = [*weights.values(), *space.parameters()]
        result = space(x, weights)
        gradients = torch.autograd.grad(result.square().mean(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs, allow_unused=True)
        found.append([result, *gradients, *(g for g in second if g is not None), *space.buffers()])
    assert len(found[0]) == len(found[1])
    for expected, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", list(SMALL))
def test_the_second_time_uses_the_parameters_of_the_first(name: str) -> None:
    """A look-ahead runs the supernet on other parameters than its own, which are back before gradients are taken."""
    kept, again, start = pair(name, "fused")
    x, found = torch.rand(1, 3, 16, 16, dtype=torch.float64), []
    for space in (kept, again):
        weights = {label: weight.clone().requires_grad_() for label, weight in start.items()}
        ahead = {key: (2 * value.detach()).requires_grad_() for key, value in space.named_parameters()}
        buffers = {key: buffer.clone() for key, buffer in space.named_buffers()}
        result = functional_call(space, ahead | buffers, (x, weights))
        found.append(torch.autograd.grad(result.square().mean(), [*weights.values(), *ahead.values()]))
    for expected, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.long
@pytest.mark.parametrize("name", list(SMALL))
def test_it_takes_less_memory(name: str) -> None:
    peaks = []
    for space in pair(name, "plain", **({"num_blocks": 3} if name == "IMDN" else {}))[:2]:
        weights = {label: torch.rand(len(c.candidates), dtype=torch.float64) for label, c in space.choices().items()}
        x = torch.rand(1, 3, 17, 19, dtype=torch.float64)
        peaks.append(extrapolated_peak(lambda space=space, x=x, w=weights: space(x, w).mean().backward(), 2304))  # type: ignore[misc]
    assert peaks[1] < 0.75 * peaks[0]
