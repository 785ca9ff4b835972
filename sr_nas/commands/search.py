"""The command ``search``: one search, or one for each of many seeds."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sr_nas.analysis.seeds import Seeds, finished, run_seeds, summarise
from sr_nas.jobs.search import run_search
from sr_nas.options.load import load_options
from sr_nas.runs.distributed import processes
from sr_nas.task import search_options


def main(args: Namespace) -> int:
    """Run ``search``."""
    if args.seeds is not None:
        return _search_seeds(args)
    with processes():
        options = load_options(search_options, args.opt, args.force_yml)
        return run_search(options, Console(), args.auto_resume)[1]


def _search_seeds(args: Namespace) -> int:
    options = load_options(search_options, args.opt, args.force_yml)
    root = Path(options.path.experiments_root)
    plan = Seeds(args.opt, args.force_yml, options.name, root, args.seeds, args.jobs, options.search.epochs)
    console = Console(markup=False, highlight=False)
    try:
        return run_seeds(plan, lambda text: console.print(text, soft_wrap=True))
    finally:
        runs = finished(plan)
        if runs:
            folder = root / f"{plan.name}_seeds"
            _print_summary(console, summarise(runs, folder), f"{len(runs)} of {len(plan.seeds)} seeds")
            console.print(f"all of it in {folder}", soft_wrap=True)


def _print_summary(console: Console, summary: dict[str, Any], title: str) -> None:
    table = Table(title=title)
    table.add_column("over the seeds")
    for heading in ("mean", "std", "min", "max"):
        table.add_column(heading, justify="right")
    for name, values in summary["figures"].items():
        digits = ",.0f" if name == "params" or name.startswith("macs") else ".4f" if "gap" in name or "share" in name else ".2f"
        table.add_row(name, *(format(values[key], digits) for key in ("mean", "std", "min", "max")))
    console.print(table)
    for seed, result in summary["seeds"].items():
        console.print(f"seed {seed}: {result['genotype']}", soft_wrap=True)
