"""What a whole step of a search costs, and its parts: candidates one at a time beside fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from sr_nas.build import build_searcher
from sr_nas.jobs.side_by_side import added_memory, apart, in_turns, seconds_of, summary
from sr_nas.jobs.step_parts import Parts, terms
from sr_nas.jobs.supernet_benchmark import CASES
from sr_nas.options.load import check_options, differences
from sr_nas.options.search import SearchOptions
from sr_nas.search.searcher import Searcher

REFERENCE, THREE_PASSES = "plain", "plain, 3 passes"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"network_g": {"execution": "plain"}},
    "fused": {"network_g": {"execution": "fused"}},
    THREE_PASSES: {"network_g": {"execution": "plain"}, "search": {"alpha_loss": "train+val"}},
}
"""Name -> what differs in the options. The third is the step of DLSR's public code: alpha descends on both batches."""
REPEATS = 20
"""How often a term of alpha's loss is computed in a row: one alone is too short to be timed."""


@dataclass(frozen=True)
class Plan:
    """How it is measured.

    Attributes:
        rounds: how often each variant takes a step, in turns.
        threads: threads of PyTorch on the CPU.
        orders: of alpha's gradient, ``"first"`` and ``"second"``.
    """

    rounds: int = 5
    threads: int = 2
    orders: tuple[str, ...] = ("first", "second")


def case_options(case: str, batch: int, size: int, settings: Mapping[str, int]) -> SearchOptions:
    """Return the options of a case: smooth activation and the FLOPs term, on the sample photos.

    Args:
        case: one of ``CASES``.
        batch: LR patches per batch.
        size: their height and width.
        settings: of the supernet, such as ``nf``; empty for its own.
    """
    arch, share = CASES[case]
    raw = {
        "name": case,
        "scale": 2,
        "datasets": {"train": {"type": "sample", "gt_size": 2 * size, "batch_size_per_gpu": batch}},
        "network_g": {"type": arch, "partial_channel": share, **settings},
        "search": {"regularizer": {"type": "sa", "schedule": {"type": "linear", "slope": 0.2}}, "flops_weight": 0.1, "epochs": 1},
    }
    return check_options(SearchOptions, raw, case)


def variants(options: SearchOptions, order: str) -> dict[str, SearchOptions]:
    """Return the options of every variant that differs from those before it; the three passes for DLSR in first order alone.

    Nothing else in them is changed, but that all steps are of one epoch and none is of a warm-up.
    """
    raw = options.model_dump(mode="json", exclude_none=True)
    search = raw["search"] | {"order": order, "steps_per_epoch": 10**9, "warmup_epochs": 0}
    if order == "first":
        search.pop("xi", None)
    found: dict[str, SearchOptions] = {}
    for name, changes in VARIANTS.items():
        if name == THREE_PASSES and (order != "first" or raw["network_g"]["type"] != "DLSR"):
            continue
        own = raw | {"search": search | changes.get("search", {}), "network_g": raw["network_g"] | changes["network_g"]}
        made = check_options(SearchOptions, own, f"{options.name}, {name}")
        if all(differences(made.model_dump(), other.model_dump()) for other in found.values()):
            found[name] = made
    return found


def measure(
    options: SearchOptions, plan: Plan, device: torch.device, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure the steps of a search in turns in this process, the memory of each variant in a process of its own.

    Returns:
        JSON-ready, for each order and each variant what :func:`~sr_nas.jobs.side_by_side.summary` says of whole steps beside
        those with candidates one at a time; ``ratio_to_three_passes`` of the fused step, where those are measured;
        ``peak_bytes``, what steps add to the memory of a process at most, or ``None``; and ``parts``: name -> ``seconds`` and
        ``share`` of a step, medians (:mod:`sr_nas.jobs.step_parts`).
    """
    torch.set_num_threads(plan.threads)
    return {order: _measure(options, order, plan, device, say) for order in plan.orders}


def _measure(
    options: SearchOptions, order: str, plan: Plan, device: torch.device, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    made = variants(options, order)
    searchers = {name: build_searcher(own, device) for name, own in made.items()}
    steps = {name: _step(searcher) for name, searcher in searchers.items()}
    parts = {name: Parts(searcher, device) for name, searcher in searchers.items()}
    shares: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in steps}

    def measure_parts() -> None:
        for name, own in parts.items():
            with own.watching():
                whole = seconds_of(steps[name], device)
            found = own.seconds | {
                term: seconds_of(compute, device) / REPEATS for term, compute in terms(searchers[name], REPEATS).items()
            }
            for part, seconds in found.items():
                shares[name].setdefault(part, []).append((seconds, seconds / whole))

    times = in_turns(steps, plan.rounds, device, lambda text: say(f"{options.name}, {order} order: {text}"), measure_parts)
    rows = {}
    for name, own_times in times.items():
        say(f"{options.name}, {order} order: memory of {name}")
        rows[name] = summary(own_times, times[REFERENCE])
        if name == "fused" and THREE_PASSES in times:
            rows[name]["ratio_to_three_passes"] = summary(own_times, times[THREE_PASSES])["ratio"]
        rows[name] |= {
            "peak_bytes": _peak_apart(made[name], plan, device),
            "parts": {
                part: {"seconds": median(seconds), "share": median(share)}
                for part, (seconds, share) in ((part, zip(*pairs, strict=True)) for part, pairs in shares[name].items())
            },
        }
    return rows


def _step(searcher: Searcher) -> Callable[[], object]:
    return lambda: searcher.run(lambda _: None, lambda _: None, lambda: True)


def peak(options: dict[str, Any], threads: int, device: str) -> int | None:
    """What two steps add to the memory of this process at most, in bytes."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    return added_memory(_step(build_searcher(check_options(SearchOptions, options, "options"), where)), where)


def _peak_apart(options: SearchOptions, plan: Plan, device: torch.device) -> int | None:
    raw = options.model_dump(mode="json", exclude_none=True)
    found: int | None = apart(__name__, "peak", options=raw, threads=plan.threads, device=str(device))
    return found
