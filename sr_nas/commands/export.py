"""Write a trained network as one self-describing file, or a genotype as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``export``."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="DIR", type=Path, help="folder of a training; of a search for .json")
    which.add_argument("--model", metavar="FILE", type=Path, help="released weights (.pth, .pt), with --arch")
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype of released weights that do not tell it")
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

    from sr_nas.errors import UserError
    from sr_nas.jobs.export import export_released, export_run

    if parsed.model is not None:
        if parsed.last:
            raise UserError("--last is for --run: released weights are of one network.")
        lines = export_released(parsed.model, parsed.arch, parsed.genotype, parsed.output, parsed.overwrite)
    else:
        if parsed.arch is not None or parsed.genotype is not None:
            raise UserError("--arch and --genotype are for --model: a run knows its own.")
        lines = export_run(parsed.run, parsed.output, parsed.last, parsed.overwrite)
    for line in lines:
        print(line)
    return 0
