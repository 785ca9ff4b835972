"""Steps of searches, as the benchmark measures them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from measuring.timing import Step
from sr_nas.options.load import check_options
from sr_nas.options.sections import SearchOptions
from sr_nas.search.budget import Multipliers
from sr_nas.search.graph import WARM_UP
from sr_nas.task import build_searcher, network_costs

CASES = {"sac-imdn": ("IMDN", 4), "sa-imdn": ("IMDN", 1), "dlsr": ("DLSR", 1)}
"""Case -> architecture and K, the share of channels that goes through the candidates being 1/K."""
GPU_VARIANTS = ("fused graph", "fused channels_last", "fused bf16", "fused graph channels_last bf16")
"""Further ways of a step on a GPU: replayed, with weights in channels_last, in bfloat16."""


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
