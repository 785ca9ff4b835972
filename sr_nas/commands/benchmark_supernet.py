"""Measure what a supernet costs beside its plain network: with its candidates one at a time, and fused."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sr_nas.commands.numbers import at_least


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark supernet``."""
    parser = argparse.ArgumentParser(prog="benchmark supernet", description=__doc__)
    parser.add_argument("--case", action="append", choices=("sac-imdn", "sa-imdn", "dlsr"), help="what (default: all three)")
    parser.add_argument("--batch", type=at_least(1), default=4, metavar="N", help="patches per batch (default: 4)")
    parser.add_argument("--size", type=at_least(8), default=24, metavar="N", help="side of an LR patch (default: 24)")
    parser.add_argument("--nf", type=at_least(16), metavar="N", help="feature channels (default: the networks' own)")
    parser.add_argument("--rounds", type=at_least(1), default=7, metavar="N", help="rounds, in turns (default: 7)")
    parser.add_argument("--threads", type=at_least(1), default=2, metavar="N", help="threads on the CPU (default: 2)")
    parser.add_argument("--num_gpu", type=int, choices=(0, 1), default=0, help="1: measure on the GPU (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parsed = parser.parse_args(arguments)

    from rich.console import Console

    from sr_nas.jobs.supernet_benchmark import CASES, Plan, measure
    from sr_nas.runs.device import pick_device

    settings = () if parsed.nf is None else (("nf", parsed.nf),)
    plan = Plan(parsed.batch, parsed.size, parsed.rounds, parsed.threads, settings=settings)
    progress = Console(stderr=True, markup=False)
    device = pick_device(parsed.num_gpu)
    found = {
        case: measure(case, plan, device, lambda text: progress.print(text, highlight=False, soft_wrap=True))
        for case in parsed.case or CASES
    }
    if parsed.json:
        json.dump({"batch": plan.batch, "size": plan.size, "threads": plan.threads, "cases": found}, sys.stdout, indent=2)
        print()
    else:
        _print(Console(markup=False), parsed, found)
    return 0


def _print(console: Any, parsed: argparse.Namespace, found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{parsed.batch} LR patches of {parsed.size}x{parsed.size}, threads: {parsed.threads}")
    table.add_column("case")
    table.add_column("variant")
    for heading in ("seconds", "quartiles", "to network", "peak MiB"):
        table.add_column(heading, justify="right")
    for case, rows in found.items():
        for variant, row in rows.items():
            memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"
            low, high = row["spread"]
            table.add_row(case, variant, f"{row['seconds']:.3f}", f"{low:.3f} - {high:.3f}", f"{row['ratio']:.2f}", memory)
    console.print(table)
    console.print(
        "plain: candidates one at a time. IMDN: a forward and a backward pass; DLSR: a step of the search.\n"
        "Medians of rounds in turns. Peak: what steps add to the memory of a process that does nothing else.",
        highlight=False,
        soft_wrap=True,
    )
