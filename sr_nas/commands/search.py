"""Search a network in the space that an option file names."""

from __future__ import annotations

from collections.abc import Sequence

from sr_nas.commands.run_arguments import parse_run


def main(arguments: Sequence[str]) -> int:
    """Run ``search``."""
    parsed = parse_run("search", __doc__, arguments)

    from sr_nas.options.load import check_early, load_options  # imports lie behind what can fail without them
    from sr_nas.options.tasks import SEARCHES

    check_early(SEARCHES, parsed.opt, parsed.force_yml)

    from sr_nas.runs.distributed import processes

    with processes():
        options = load_options(SEARCHES, parsed.opt, parsed.force_yml)

        from rich.console import Console

        from sr_nas.jobs.search import run_search

        return run_search(options, Console(), parsed.auto_resume)[1]
