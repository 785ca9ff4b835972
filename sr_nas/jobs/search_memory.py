"""How much memory a search will take, told before it starts."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor
from torch.optim import Optimizer

from sr_nas.complexity.memory import PROBE, extrapolated_peak
from sr_nas.errors import UserError
from sr_nas.options.search import SearchOptions
from sr_nas.runs.available import available_memory
from sr_nas.search.bilevel import alpha_gradient
from sr_nas.search.searcher import Searcher

LIBRARIES = {"cpu": (36e6, 1.3)}
"""Device -> bytes, and a factor on those of tensors, for what libraries hold besides.

Fitted to steps of IMDN and DLSR spaces of one thread on one machine, the worst of which lies 18 % off. Other devices have none.
"""


def step_bytes(searcher: Searcher, scale: int, pixels: int) -> int:
    """Return the most bytes that tensors of a search step take beside the supernet's weights, optimizer states included.

    The alpha step is the larger one. It is run on a tiny image and leaves nothing behind.

    Args:
        searcher: with its supernet on its device.
        scale: upscaling factor.
        pixels: LR pixels of a process's share of a batch.
    """
    device, plan = searcher.device, searcher.plan
    parameters = list(searcher.space.parameters())
    low = torch.zeros(1, 3, *PROBE, device=device)
    high = torch.zeros(1, 3, *(scale * side for side in PROBE), device=device)
    other = low.clone(), high.clone()
    kept = {parameter: parameter.grad for parameter in searcher.alpha.parameters()}

    def step() -> None:
        alpha_gradient(
            searcher.space,
            searcher.alpha,
            searcher.relaxation,
            searcher.objective,
            plan.warmup_epochs + 1,
            (low, high),
            other,
            1e-9 if plan.second_order else 0.0,
            plan.alpha_on_both,
            searcher._autocast,
        )

    searcher.space.train()
    with torch.random.fork_rng(devices=[]):
        peak = extrapolated_peak(
            step, pixels, [*parameters, *searcher.space.buffers(), *searcher.alpha.parameters()], [low, high, *other]
        )
    for parameter, gradient in kept.items():
        parameter.grad = gradient
    return peak + _bytes(parameters) + _state_bytes(searcher.weight_optimizer)


def needed_memory(searcher: Searcher, scale: int, pixels: int) -> int:
    """Return about the most bytes that a search will add to what this process takes now: tensors and :data:`LIBRARIES`."""
    fixed, factor = LIBRARIES.get(searcher.device.type, (0, 1))
    return round(fixed + factor * step_bytes(searcher, scale, pixels))


def check_memory(searcher: Searcher, options: SearchOptions, begun: int, processes: int) -> str:
    """Return a clause that says what a search needs and what there is.

    Args:
        searcher: before its first step.
        options: that it was built from.
        begun: number of processes that the run was begun with, whose batches are shared by
        processes: as many as there are now.

    Raises:
        UserError: there is less, with advice.
    """
    data = options.datasets.train
    side = data.gt_size // options.scale
    needed = needed_memory(searcher, options.scale, data.batch_size_per_gpu * begun // processes * side * side)
    available = available_memory(searcher.device)
    if available is None:
        return f", needs about {_told(needed)}"
    if searcher.device.type == "cpu":
        available //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if needed > available:
        raise UserError(
            f"a step of this search needs about {_told(needed)}, and {searcher.device} has {_told(available)}. {_advice(options)}"
        )
    return f", needs about {_told(needed)} of {_told(available)} available"


def _advice(options: SearchOptions) -> str:
    network, data = options.network_g.arguments(), options.datasets.train
    ways = []
    if network.get("execution") == "plain":
        ways.append("set network_g.execution to fused")
    if network.get("checkpointing") is False:
        ways.append("set network_g.checkpointing to true, which computes more and keeps less")
    if "partial_channel" in network:
        ways.append(f"raise network_g.partial_channel (K, now {network['partial_channel']})")
    if data.batch_size_per_gpu > 1:
        ways.append(f"lower datasets.train.batch_size_per_gpu (now {data.batch_size_per_gpu})")
    ways.append(f"lower datasets.train.gt_size (now {data.gt_size})")
    if options.search.order == "second":
        ways.append("set search.order to first")
    return f"To take less, {', '.join(ways[:-1])} or {ways[-1]}." if len(ways) > 1 else f"To take less, {ways[0]}."


def _state_bytes(optimizer: Optimizer) -> int:
    """What an optimizer keeps of its own, seen on a copy that takes a step."""
    other = copy.deepcopy(optimizer)
    for group in other.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    other.step()
    return _bytes([value for state in other.state.values() for value in state.values() if isinstance(value, Tensor)])


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _told(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
