"""Train the network that an option file names, for instance one that a search has found."""

from __future__ import annotations

from collections.abc import Sequence

from sr_nas.commands.run_arguments import parse_run


def main(arguments: Sequence[str]) -> int:
    """Run ``train``."""
    parsed = parse_run("train", __doc__, arguments)

    from rich.console import Console  # what follows takes seconds to import; --help and a typo need none of it

    from sr_nas.jobs.train import run_training
    from sr_nas.options.load import load_options
    from sr_nas.options.train import TrainOptions

    options = load_options(TrainOptions, parsed.opt, parsed.force_yml)
    return run_training(options, Console(), parsed.auto_resume)[1]
