"""The command ``train``."""

from __future__ import annotations

from argparse import Namespace

from rich.console import Console

from sr_nas.jobs.train import run_training
from sr_nas.options.load import load_options
from sr_nas.runs.distributed import processes
from sr_nas.task import training_options


def main(args: Namespace) -> int:
    """Run ``train``."""
    with processes():
        options = load_options(training_options, args.opt, args.force_yml)
        return run_training(options, Console(), args.auto_resume)[1]
