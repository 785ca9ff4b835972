"""Measure a whole step of a search and its parts: with the candidates one at a time, and fused.

The cases are the methods of the option files at the sizes of the published networks; -opt measures an option file's own search.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sr_nas.commands import benchmarks

PARTS = ("alpha step", "weight step", "optimizers", "data", "regularizer")
"""What is always among the parts of a step; the terms of costs come on top."""


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark search-step``."""
    parser = argparse.ArgumentParser(
        prog="benchmark search-step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks.add_sizes(parser)
    parser.add_argument("--order", action="append", choices=("first", "second"), help="of alpha's gradient (default: both)")
    parser.add_argument("-opt", "--opt", metavar="FILE", help="measure this option file's search, at its own sizes")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override its options")
    benchmarks.add_measuring(parser, rounds=5)
    parsed = parser.parse_args(arguments)
    given = [f"--{name}" for name in ("case", "batch", "size", "nf") if getattr(parsed, name) != parser.get_default(name)]
    if parsed.opt and given:
        parser.error(f"-opt names the search and its sizes: leave out {', '.join(given)}, and override options by --force_yml")

    device, machine = benchmarks.ready(parsed)

    from sr_nas.jobs import candidate_benchmark
    from sr_nas.jobs.benchmark_targets import step_targets
    from sr_nas.jobs.step_benchmark import Plan, case_options, measure
    from sr_nas.jobs.supernet_benchmark import Plan as PassPlan
    from sr_nas.options.load import load_options
    from sr_nas.options.search import SearchOptions

    settings = {} if parsed.nf is None else {"nf": parsed.nf}
    if parsed.opt:
        files = [load_options(SearchOptions, parsed.opt, parsed.force_yml)]
    else:
        files = [case_options(case, parsed.batch, parsed.size, settings) for case in parsed.case or benchmarks.CASES]
    say = benchmarks.progress()
    plan = Plan(parsed.rounds, machine["threads"], tuple(dict.fromkeys(parsed.order or ("first", "second"))))
    cases = {options.name: measure(options, plan, device, say) for options in files}
    passes = PassPlan(parsed.batch, parsed.size, 3 * parsed.rounds, plan.threads, settings=tuple(settings.items()))
    imdn = [case for case in cases if case.endswith("-imdn") and not parsed.opt]
    candidates = {case: candidate_benchmark.measure(case, passes, device, say) for case in imdn}
    result = {
        "machine": machine,
        "sizes": {
            options.name: {
                "batch": options.datasets.train.batch_size_per_gpu,
                "size": options.datasets.train.gt_size // options.scale,
            }
            for options in files
        },
        "rounds": plan.rounds,
        "cases": cases,
        "candidates": candidates,
        "targets": step_targets(cases, candidates),
    }
    benchmarks.show(result, parsed.json, _tables)
    return 0


def _tables(console: Any, result: dict[str, Any]) -> None:
    for case, orders in result["cases"].items():
        size = result["sizes"][case]
        title = f"{case}, {size['batch']} LR patches of {size['size']}x{size['size']}"
        rows = {f"{order}, {variant}": row for order, own in orders.items() for variant, row in own.items()}
        costs = next(iter(rows.values()))["parts"].keys() - PARTS
        steps = benchmarks.table_of(("step",), ("seconds", "to plain", "CPU", "MiB"), title)
        parts = benchmarks.table_of(("% of step",), [part.removesuffix(" step") for part in (*PARTS, *sorted(costs))], title)
        for name, row in rows.items():
            steps.add_row(name, *benchmarks.measured(row), benchmarks.mebibytes(row["peak_bytes"]))
            cells = (row["parts"].get(part) for part in (*PARTS, *sorted(costs)))
            parts.add_row(name, *("-" if cell is None else f"{100 * cell['share']:.2f}" for cell in cells))
        console.print(steps)
        console.print(parts)
    if result["candidates"]:
        table = benchmarks.table_of(("case", "candidates"), ("seconds", "to twelve", "CPU"), "a pass of the fused supernet")
        for case, rows in result["candidates"].items():
            for name, row in rows.items():
                table.add_row(case, name if name == "twelve" else f"and {name}", *benchmarks.measured(row))
        console.print(table)
    console.print(
        "Order of alpha's gradient, and variant; plain: candidates one at a time. Steps of the searcher itself.\n"
        "Optimizers and alpha's data lie within the two steps, the terms of alpha's loss within the first.\n"
        "CPU: the same ratio in seconds of all cores, without waiting for one: on a busy machine it tells more.\n"
        "Medians of rounds in turns, and quartiles. MiB: what steps add at most to the memory of a process of their own.",
        highlight=False,
        soft_wrap=True,
    )
