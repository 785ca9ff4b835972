"""What measurements of searches are held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TERM, THIRTEENTH = 0.01, 0.03
"""Of a step: a term of alpha's loss. Of a fused pass: a thirteenth candidate whose taps a kernel has already."""
NETWORK = {"sac-imdn": 1.5, "sa-imdn": 8.0}
"""Case -> a fused pass, in passes of the plain network."""
DLSR_STEP, DLSR_THREE_PASSES, DLSR_MEMORY = 0.45, 0.3, 0.35
"""A fused step of first order over one with candidates one at a time: seconds, seconds where that has three passes, memory."""


def supernet_targets(cases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``what``, ``found``, ``limit``, ``met`` for what :func:`sr_nas.jobs.supernet_benchmark.measure` found by case."""
    return [
        _target(f"{case}: fused pass / network's", cases[case]["fused"]["ratio"], limit)
        for case, limit in NETWORK.items()
        if case in cases
    ]


def step_targets(cases: Mapping[str, Any], candidates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the same for what :mod:`sr_nas.jobs.step_benchmark` and :mod:`sr_nas.jobs.candidate_benchmark` found by case."""
    found = []
    for case, orders in cases.items():
        shares = [
            part["share"]
            for rows in orders.values()
            for row in rows.values()
            for name, part in row["parts"].items()
            if name == "regularizer" or name.endswith(" term")
        ]
        if shares:
            found.append(_target(f"{case}: largest term of alpha's loss / step", max(shares), TERM))
    rows = cases.get("dlsr", {}).get("first", {})
    if rows:
        found.append(_target("dlsr: fused step / one at a time", rows["fused"]["ratio"], DLSR_STEP))
        if "ratio_to_three_passes" in rows["fused"]:
            ratio = rows["fused"]["ratio_to_three_passes"]
            found.append(_target("dlsr: fused step / one at a time, three passes", ratio, DLSR_THREE_PASSES))
        memory = [rows[name]["peak_bytes"] for name in ("fused", "plain")]
        if all(memory):
            found.append(_target("dlsr: peak memory of a fused step / one at a time", memory[0] / memory[1], DLSR_MEMORY))
    for case, more in candidates.items():
        found.append(_target(f"{case}: a thirteenth candidate, conv_1x1 / pass", more["conv_1x1"]["ratio"] - 1, THIRTEENTH))
    return found


def _target(what: str, found: float, limit: float) -> dict[str, Any]:
    return {"what": what, "found": found, "limit": limit, "met": found <= limit}
