"""Search a network in the space that an option file names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sr_nas.commands.numbers import at_least, seeds
from sr_nas.commands.run_arguments import run_parser


def main(arguments: Sequence[str]) -> int:
    """Run ``search``."""
    parser = run_parser("search", __doc__)
    parser.add_argument(
        "--seeds", type=seeds, metavar="0-9", help="one search for each seed, and what they come to: 0-9, or 0,3,5; they resume"
    )
    parser.add_argument("--jobs", type=at_least(1), metavar="N", help="with --seeds, how many at a time (default: GPUs or cores)")
    parsed = parser.parse_args(arguments)

    from sr_nas.options.load import check_early, load_options
    from sr_nas.options.tasks import SEARCHES

    check_early(SEARCHES, parsed.opt, parsed.force_yml)
    if parsed.seeds is not None:
        return _many(parsed)

    from sr_nas.runs.distributed import processes

    with processes():
        options = load_options(SEARCHES, parsed.opt, parsed.force_yml)

        from rich.console import Console

        from sr_nas.jobs.search import run_search

        return run_search(options, Console(), parsed.auto_resume)[1]


def _many(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from sr_nas.analysis.seeds import Seeds, finished, run_seeds, summarise
    from sr_nas.options.load import load_options
    from sr_nas.options.tasks import SEARCHES

    options = load_options(SEARCHES, parsed.opt, parsed.force_yml)
    root = Path(options.path.experiments_root)
    plan = Seeds(parsed.opt, parsed.force_yml, options.name, root, parsed.seeds, parsed.jobs, options.search.epochs)
    console = Console(markup=False)
    try:
        return run_seeds(plan, lambda text: console.print(text, highlight=False, soft_wrap=True))
    finally:
        runs = finished(plan)
        if runs:
            folder = root / f"{plan.name}_seeds"
            _print(console, summarise(runs, folder), len(runs), len(plan.seeds))
            console.print(f"all of it in {folder}", highlight=False, soft_wrap=True)


def _print(console: Any, found: dict[str, Any], done: int, wanted: int) -> None:
    from rich.table import Table

    table = Table(title=f"{done} of {wanted} seeds")
    table.add_column("over the seeds")
    for heading in ("mean", "std", "min", "max"):
        table.add_column(heading, justify="right")
    for name, values in found["figures"].items():
        digits = ",.0f" if name == "params" or name.startswith("macs") else ".4f" if "gap" in name or "share" in name else ".2f"
        table.add_row(name, *(format(values[key], digits) for key in ("mean", "std", "min", "max")))
    console.print(table)
    for seed, own in found["seeds"].items():
        console.print(f"seed {seed}: {own['genotype']}", highlight=False, soft_wrap=True)
