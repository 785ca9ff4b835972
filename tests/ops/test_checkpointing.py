"""Recomputed blocks of a supernet against kept ones: values, gradients of both orders, statistics, and other parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.func import functional_call

from sr_nas.complexity.memory import extrapolated_peak
from sr_nas.registry import SPACES

SMALL: dict[str, dict[str, Any]] = {"IMDN": {"nf": 16, "num_blocks": 1}, "DLSR": {"nf": 16, "num_cells": 3}}


def pair(name: str, execution: str, **more: int) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    kept, again = (
        SPACES.get(name)(scale=2, **(SMALL[name] | more), execution=execution, checkpointing=checkpointing).double()
        for checkpointing in (False, True)
    )
    again.load_state_dict(kept.state_dict())
    return kept, again, {label: torch.rand(len(c.candidates), dtype=torch.float64) for label, c in kept.choices().items()}


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


@pytest.mark.parametrize("name", list(SMALL))
def test_it_takes_less_memory(name: str) -> None:
    peaks = []
    for space in pair(name, "plain", **({"num_blocks": 3} if name == "IMDN" else {}))[:2]:
        weights = {label: torch.rand(len(c.candidates), dtype=torch.float64) for label, c in space.choices().items()}
        x = torch.rand(1, 3, 17, 19, dtype=torch.float64)
        peaks.append(extrapolated_peak(lambda space=space, x=x, w=weights: space(x, w).mean().backward(), 2304))  # type: ignore[misc]
    assert peaks[1] < 0.75 * peaks[0]
