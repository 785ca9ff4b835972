"""Write a trained network as one self-describing file, or a genotype as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``export``."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    parser.add_argument("--run", required=True, metavar="DIR", type=Path, help="folder of a training; of a search for .json")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        type=Path,
        help=".safetensors for the network, .json for its genotype alone",
    )
    parser.add_argument("--last", action="store_true", help="the last network instead of the best")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parsed = parser.parse_args(arguments)

    from sr_nas.jobs.export import export_run

    for line in export_run(parsed.run, parsed.output, parsed.last, parsed.overwrite):
        print(line)
    return 0
