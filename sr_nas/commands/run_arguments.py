"""The arguments of commands that make a run."""

from __future__ import annotations

import argparse


def run_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser of ``-opt``, ``--force_yml`` and ``--auto_resume``, in BasicSR's spelling."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument(
        "--force_yml",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override options, e.g. train:optim_g:lr=1e-4",
    )
    parser.add_argument("--auto_resume", action="store_true", help="go on with the newest run of this name, where there is one")
    return parser
