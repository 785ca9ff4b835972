"""Train the network that an option file names, for instance one that a search has found."""

from __future__ import annotations

from collections.abc import Sequence

from sr_nas.commands.run_arguments import run_parser


def main(arguments: Sequence[str]) -> int:
    """Run ``train``."""
    parsed = run_parser("train", __doc__).parse_args(arguments)

    from sr_nas.options.load import check_early, load_options
    from sr_nas.options.tasks import TRAININGS

    check_early(TRAININGS, parsed.opt, parsed.force_yml)

    from sr_nas.runs.distributed import processes

    with processes():
        options = load_options(TRAININGS, parsed.opt, parsed.force_yml)

        from rich.console import Console

        from sr_nas.jobs.train import run_training

        return run_training(options, Console(), parsed.auto_resume)[1]
