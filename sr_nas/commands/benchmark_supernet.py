"""Measure what a pass of a supernet costs beside its plain network's: with its candidates one at a time, and fused."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sr_nas.commands import benchmarks


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark supernet``."""
    parser = argparse.ArgumentParser(prog="benchmark supernet", description=__doc__)
    benchmarks.add_sizes(parser)
    benchmarks.add_measuring(parser, rounds=7)
    parsed = parser.parse_args(arguments)

    device, machine = benchmarks.ready(parsed)

    from sr_nas.jobs.benchmark_targets import supernet_targets
    from sr_nas.jobs.supernet_benchmark import Plan, measure

    settings = () if parsed.nf is None else (("nf", parsed.nf),)
    plan = Plan(parsed.batch, parsed.size, parsed.rounds, machine["threads"], settings=settings)
    say = benchmarks.progress()
    cases = {case: measure(case, plan, device, say) for case in parsed.case or benchmarks.CASES}
    result = {"machine": machine, "batch": plan.batch, "size": plan.size, "rounds": plan.rounds, "cases": cases}
    benchmarks.show(result | {"targets": supernet_targets(cases)}, parsed.json, _tables)
    return 0


def _tables(console: Any, result: dict[str, Any]) -> None:
    title = f"{result['batch']} LR patches of {result['size']}x{result['size']}, a pass"
    table = benchmarks.table_of(("case", "variant"), ("seconds", "to network", "CPU", "MiB"), title)
    for case, rows in result["cases"].items():
        for variant, row in rows.items():
            table.add_row(case, variant, *benchmarks.measured(row), benchmarks.mebibytes(row["peak_bytes"]))
    console.print(table)
    console.print(
        "plain: candidates one at a time. A pass: forward and backward, gradients of weights and alpha.\n"
        "CPU: the same ratio in seconds of all cores, without waiting for one: on a busy machine it tells more.\n"
        "Medians of rounds in turns, and quartiles. MiB: what passes add at most to the memory of a process of their own.",
        highlight=False,
        soft_wrap=True,
    )
