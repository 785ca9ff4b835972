"""What a supernet costs beside its plain network: time and memory of a pass, with its candidates one at a time and fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from sr_nas.jobs.side_by_side import added_memory, apart, in_turns, summary
from sr_nas.registry import NETWORKS, SPACES
from sr_nas.search.alpha import Alpha
from sr_nas.search.relaxations import softmax

CASES: dict[str, tuple[str, int]] = {"sac-imdn": ("IMDN", 4), "sa-imdn": ("IMDN", 1), "dlsr": ("DLSR", 1)}
"""Name -> architecture and K."""
VARIANTS = ("network", "plain", "fused")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        batch: LR patches per batch.
        size: their height and width.
        rounds: how often each variant runs, in turns.
        threads: threads of PyTorch on the CPU.
        scale: upscaling factor.
        settings: of networks and supernets, such as ``nf``; empty for their own.
    """

    batch: int = 4
    size: int = 24
    rounds: int = 7
    threads: int = 2
    scale: int = 2
    settings: tuple[tuple[str, int], ...] = ()


def measure(case: str, plan: Plan, device: torch.device, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure one case: one forward and backward pass of each variant, with gradients of weights and alpha.

    Returns:
        JSON-ready, for each variant what :func:`~sr_nas.jobs.side_by_side.summary` says of its times beside the network's, and
        ``peak_bytes``, what a pass adds to the memory of a process that does nothing else (of the GPU, on CUDA) at most;
        ``None`` where the system cannot tell.
    """
    torch.set_num_threads(plan.threads)
    steps = {variant: _pass(case, variant, plan, device) for variant in VARIANTS}
    times = in_turns(steps, plan.rounds, device, lambda text: say(f"{case}: {text}"))
    rows = {}
    for variant, own in times.items():
        say(f"{case}: memory of {variant}")
        rows[variant] = summary(own, times["network"]) | {"peak_bytes": _peak_apart(case, variant, plan, device)}
    return rows


def peak(case: str, variant: str, plan: dict[str, Any], device: str) -> int | None:
    """What two passes add to the memory of this process at most, in bytes."""
    known = Plan(**plan | {"settings": tuple(map(tuple, plan["settings"]))})
    torch.set_num_threads(known.threads)
    return added_memory(_pass(case, variant, known, torch.device(device)), torch.device(device))


def _peak_apart(case: str, variant: str, plan: Plan, device: torch.device) -> int | None:
    found: int | None = apart(__name__, "peak", case=case, variant=variant, plan=asdict(plan), device=str(device))
    return found


def _pass(case: str, variant: str, plan: Plan, device: torch.device) -> Callable[[], None]:
    torch.manual_seed(0)
    arch, share = CASES[case]
    settings = dict(plan.settings)
    if variant == "network":
        module = NETWORKS.get(arch)(scale=plan.scale, **settings).to(device)
    else:
        module = SPACES.get(arch)(scale=plan.scale, partial_channel=share, execution=variant, **settings).to(device)
    return supernet_pass(module, plan.batch, plan.size, device, relaxed=variant != "network")


def supernet_pass(module: Any, batch: int, size: int, device: torch.device, relaxed: bool = True) -> Callable[[], None]:
    """Return a forward and a backward pass, with an L1 loss to random targets.

    Args:
        module: a supernet on the device, or a network.
        batch: LR patches.
        size: their height and width.
        device: where the module is.
        relaxed: whether it takes the weights of candidates.
    """
    low = torch.rand(batch, 3, size, size, device=device)
    high = torch.rand(batch, 3, size * module.scale, size * module.scale, device=device)
    alpha = Alpha(module.choices()).to(device) if relaxed else None

    def step() -> None:
        module.zero_grad()
        result = module(low) if alpha is None else module(low, alpha.relax(softmax))
        nn.functional.l1_loss(result, high).backward()

    return step
