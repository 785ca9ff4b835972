"""Passes of supernets and steps of searches, as the benchmark measures them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from measuring.timing import Step
from sr_nas.options.load import check_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import NETWORKS, SPACES
from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.budget import Multipliers
from sr_nas.search.graph import WARM_UP
from sr_nas.task import build_searcher, network_costs

CASES = {"sac-imdn": ("IMDN", 4), "sa-imdn": ("IMDN", 1), "dlsr": ("DLSR", 1)}
"""Case -> architecture and K, the share of channels that goes through the candidates being 1/K."""
GPU_VARIANTS = ("fused graph", "fused channels_last", "fused bf16", "fused graph channels_last bf16")
"""Further ways of a step on a GPU: replayed, with weights in channels_last, in bfloat16."""


class Calls(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches, and how many of them compute: all but views and empty tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.computing = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all += 1
        name = func.name().partition("::")[2]
        self.computing += not (func.is_view or name.startswith(("empty", "new_empty", "_unsafe_view")))
        return func(*args, **(kwargs or {}))


def as_on_an_accelerator(step: Step) -> Step:
    """Return a step whose mixed operations are computed in few calls, as on a GPU, on whatever device they are."""

    def run() -> object:
        with patch("sr_nas.ops.fused.few_calls", lambda _: True), patch("sr_nas.ops.depthwise.fast_gradients", lambda _: False):
            return step()

    return run


def supernet_pass(case: str, variant: str, batch: int, size: int, settings: dict[str, int], device: torch.device) -> Step:
    """A forward and a backward pass with an L1 loss, of a supernet (as :func:`supernet` names them) or its plain ``network``."""
    torch.manual_seed(0)
    arch, partial = CASES[case]
    low = torch.rand(batch, 3, size, size, device=device)
    high = torch.rand(batch, 3, 2 * size, 2 * size, device=device)
    if variant == "network":
        network = NETWORKS.get(arch)(scale=2, **settings).to(device)
        return lambda: nn.functional.l1_loss(network(low), high).backward()
    execution, _, few = variant.partition(", ")
    space = SPACES.get(arch)(scale=2, partial_channel=partial, execution=execution, **settings).to(device)
    alpha = Alpha(space.choices()).to(device)

    def step() -> None:
        nn.functional.l1_loss(space(low, alpha.relax(softmax)), high).backward()

    return as_on_an_accelerator(step) if few else step


def search_step(case: str, variant: str, batch: int, size: int, settings: dict[str, int], device: torch.device) -> Step:
    """A step of a search on the sample photos, alpha and weights, with SA loss and FLOPs term.

    Args:
        case: one of :data:`CASES`.
        variant: execution and order, such as ``"fused, first"``, the former perhaps with :data:`GPU_VARIANTS`' words;
            ``"budget, first"`` is what a budget adds to that, alone.
        batch: LR patches per batch.
        size: their height and width in pixels.
        settings: of the supernet.
        device: where it runs.
    """
    arch, partial = CASES[case]
    way, order = variant.split(", ")
    execution, *words = way.split(" ")
    alone = execution == "budget"
    raw = {
        "name": case,
        "scale": 2,
        "datasets": {"train": {"type": "sample", "gt_size": 2 * size, "batch_size_per_gpu": batch}},
        "network_g": {"type": arch, "partial_channel": partial, "execution": "fused" if alone else execution, **settings},
        "search": {
            "regularizer": {"type": "sa", "schedule": {"type": "linear", "slope": 0.2}},
            "flops_weight": 0.1,
            "epochs": 1,
            "steps_per_epoch": 10**9,
            "order": order,
            "cuda_graph": "graph" in words,
        },
        "train": {"precision": "bf16" if "bf16" in words else "fp32"},
    }
    searcher = build_searcher(check_options(SearchOptions, raw, case), device)
    if "channels_last" in words:
        searcher.space.to(memory_format=torch.channels_last)
    for _ in range(WARM_UP + 1 if "graph" in words else 0):
        searcher.run(between_steps=lambda: True)  # the last one is recorded
    if alone:
        searcher.run(between_steps=lambda: True)  # which leaves a gradient of alpha
        cost = network_costs(searcher.space, {"macs_hr": math.inf})["macs_hr"]
        multipliers = Multipliers({"macs_hr": replace(cost, limit=(cost.least + cost.most) / 2)})
        return lambda: multipliers.add_gradient(searcher.alpha, searcher.relaxation)
    return lambda: searcher.run(between_steps=lambda: True)
