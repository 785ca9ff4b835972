"""The command ``report``: the page of a run, written anew from its folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST, load_model
from sr_nas.options.load import load_options, read_options
from sr_nas.report.page import REPORT, write_report
from sr_nas.runs.run_dir import OPTIONS, PROVENANCE
from sr_nas.task import find_task, search_options


def main(args: Namespace) -> int:
    """Write the report of every run; return the exit code.

    Raises:
        UserError: a folder is none of a search or a training, or what it holds is damaged.
    """
    for folder in args.runs:
        if not all((folder / name).is_file() for name in (OPTIONS, PROVENANCE)):
            raise UserError(
                f"{folder} is no folder of a search or a training: it has no {OPTIONS} and {PROVENANCE}. "
                "The report of a sweep or a table is written by its own command, started again."
            )
        try:
            write_report(folder, model_of(folder))
        except (LookupError, TypeError) as error:
            raise UserError(f"a file in {folder} is damaged, or no run wrote it: {error!r}.") from error
        print(folder / REPORT)
    return 0


def model_of(folder: Path) -> Any:
    """Return the supernet of a search, without weights, or the network of a training; ``None`` where that has none yet."""
    if "search" in read_options(folder / OPTIONS):
        options = load_options(search_options, folder / OPTIONS, check_files=False)
        with torch.device("meta"):
            return find_task(options.task).space(options)
    files = [folder / name for name in (BEST, LAST) if (folder / name).is_file()]
    return load_model(files[0]) if files else None
