"""The command ``export``: a trained network as one file."""

from __future__ import annotations

from argparse import Namespace

from sr_nas.errors import UserError
from sr_nas.jobs.export import Writing, export_model, export_run


def main(args: Namespace) -> int:
    """Run ``export``."""
    how = Writing(args.output, args.overwrite, args.opset, args.fp16, not args.no_card, args.license)
    if args.model is not None:
        if args.last:
            raise UserError("--last is for --run: a file holds one network.")
        lines = export_model(args.model, args.arch, args.genotype, how)
    else:
        if args.arch is not None or args.genotype is not None:
            raise UserError("--arch and --genotype are for --model: a run knows its own.")
        lines = export_run(args.run, how, args.last)
    for line in lines:
        print(line)
    return 0
