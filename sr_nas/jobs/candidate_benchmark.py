"""What one more candidate costs a pass of the fused supernet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sr_nas.jobs.side_by_side import in_turns, summary
from sr_nas.jobs.supernet_benchmark import CASES, Plan, supernet_pass
from sr_nas.ops.imdn_candidates import IMDN_CANDIDATES, convolution
from sr_nas.registry import SPACES

MORE = {"conv_1x1": partial(convolution, kernel=1), "conv_7x7": partial(convolution, kernel=7)}
"""Linear candidates: one whose taps a kernel there is has already, and one that makes that kernel larger."""


def measure(case: str, plan: Plan, device: torch.device, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure a pass with the candidates of the IMDN space beside passes with one more.

    Args:
        case: one of the IMDN space.
        plan: sizes and rounds.
        device: where.
        say: told of progress.

    Returns:
        JSON-ready: for ``"twelve"``, with the candidates that are registered, and for each of ``MORE``, with it too, what
        :func:`~sr_nas.jobs.side_by_side.summary` says of its times beside those of ``"twelve"``.
    """
    share, names = CASES[case][1], IMDN_CANDIDATES.names()
    steps = {}
    with IMDN_CANDIDATES.lent(MORE):
        for name, candidates in {"twelve": names, **{more: [*names, more] for more in MORE}}.items():
            torch.manual_seed(0)
            space = SPACES.get("IMDN")(
                scale=plan.scale, candidates=candidates, partial_channel=share, execution="fused", **dict(plan.settings)
            )
            steps[name] = supernet_pass(space.to(device), plan.batch, plan.size, device)
    times = in_turns(steps, plan.rounds, device, lambda text: say(f"{case}, a thirteenth candidate: {text}"))
    return {name: summary(own, times["twelve"]) for name, own in times.items()}
