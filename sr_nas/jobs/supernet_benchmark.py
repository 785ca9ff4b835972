"""What a supernet costs beside its plain network: time and memory, with its candidates one at a time and fused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.jobs.measure_inference import LAUNCHER
from sr_nas.registry import NETWORKS, SPACES
from sr_nas.runs.device import peak_memory, reset_peak_memory
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective
from sr_nas.search.relaxations import softmax
from sr_nas.search.searcher import Plan as SearchPlan
from sr_nas.search.searcher import Searcher

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


class _Batches:
    """The same batch for ever."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.batch = low, high

    def next(self) -> tuple[Tensor, Tensor]:
        return self.batch


def measure(case: str, plan: Plan, device: torch.device, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure one case: the passes of the variants in turns in this process, the memory of each in a process of its own.

    Of IMDN the pass is one forward and backward pass, with gradients of weights and alpha. Of DLSR it is a step of the
    search, which is two passes and both optimizer steps; of its network, two passes and one optimizer step.

    Returns:
        JSON-ready, for each variant: ``seconds``, the median; ``spread``, the quartiles; ``ratio`` to the network, the
        median of the rounds' own; ``peak_bytes``, what a step adds to the memory of the process (of the GPU, on CUDA) at
        most; ``None`` where the system cannot tell.
    """
    torch.set_num_threads(plan.threads)
    steps = {variant: _step(case, variant, plan, device) for variant in VARIANTS}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(plan.rounds):
        say(f"{case}: round {number + 1} of {plan.rounds}")
        for variant, step in steps.items():
            times[variant].append(_seconds(step, device))
    rows = {}
    for variant, own in times.items():
        ordered = sorted(own)
        say(f"{case}: memory of {variant}")
        rows[variant] = {
            "seconds": median(own),
            "spread": [ordered[len(own) // 4], ordered[(3 * len(own)) // 4]],
            "ratio": median(mine / base for mine, base in zip(own, times["network"], strict=True)),
            "peak_bytes": _peak_apart(case, variant, plan, device),
        }
    return rows


def peak(case: str, variant: str, plan: Plan, device: torch.device) -> int | None:
    """What two steps add to the memory of this process at most, in bytes; the first allocates gradients and moments."""
    torch.set_num_threads(plan.threads)
    step = _step(case, variant, plan, device)
    reset_peak_memory(device)
    before = peak_memory(device)
    for _ in range(2):
        step()
    after = peak_memory(device)
    return None if before is None or after is None else after - before


def _peak_apart(case: str, variant: str, plan: Plan, device: torch.device) -> int | None:
    code = (
        "import json, sys, torch; from sr_nas.jobs.supernet_benchmark import Plan, peak; words = json.loads(sys.argv[1]);"
        "print(json.dumps(peak(words['case'], words['variant'], Plan(**words['plan']), torch.device(words['device']))))"
    )
    words = json.dumps({"case": case, "variant": variant, "plan": asdict(plan), "device": str(device)})
    done = subprocess.run([sys.executable, "-c", LAUNCHER, code, words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the process that measures the memory ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    found: int | None = json.loads(done.stdout.splitlines()[-1])
    return found


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _step(case: str, variant: str, plan: Plan, device: torch.device) -> Callable[[], None]:
    torch.manual_seed(0)
    arch, share = CASES[case]
    settings = dict(plan.settings)
    if variant == "network":
        module = NETWORKS.get(arch)(scale=plan.scale, **settings).to(device)
    else:
        module = SPACES.get(arch)(scale=plan.scale, partial_channel=share, execution=variant, **settings).to(device)
    low = torch.rand(plan.batch, 3, plan.size, plan.size, device=device)
    high = torch.rand(plan.batch, 3, plan.size * plan.scale, plan.size * plan.scale, device=device)
    if case == "dlsr":
        return _network_step(module, low, high) if variant == "network" else _search_step(module, low, high)
    alpha = None if variant == "network" else Alpha(module.choices()).to(device)

    def step() -> None:
        module.zero_grad()
        result = module(low) if alpha is None else module(low, alpha.relax(softmax))
        nn.functional.l1_loss(result, high).backward()

    return step


def _network_step(network: nn.Module, low: Tensor, high: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.l1_loss(network(low), high).backward()
        optimizer.step()

    return step


def _search_step(space: Any, low: Tensor, high: Tensor) -> Callable[[], None]:
    alpha = Alpha(space.choices()).to(low.device)
    weights = torch.optim.Adam(space.parameters())
    searcher = Searcher(
        space=space.train(),
        alpha=alpha,
        relaxation=softmax,
        objective=Objective(nn.functional.l1_loss, lambda _: low.new_zeros(()), lambda _: 0.0, ()),
        training=_Batches(low, high),  # type: ignore[arg-type]
        validation=_Batches(low, high),  # type: ignore[arg-type]
        weight_optimizer=weights,
        alpha_optimizer=torch.optim.Adam(alpha.parameters()),
        scheduler=torch.optim.lr_scheduler.ConstantLR(weights, factor=1.0),
        plan=SearchPlan(epochs=1, steps_per_epoch=1),
    )

    def step() -> None:
        searcher.alpha_step(1, (low, high))
        searcher.weight_step((low, high))

    return step
