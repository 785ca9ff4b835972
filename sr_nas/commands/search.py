"""The command ``search``: one search, or one for each of many seeds."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console

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
        if runs := finished(plan):
            summarise(plan, runs).print(console)
