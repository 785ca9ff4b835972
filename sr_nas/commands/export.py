"""Write a trained network as one self-describing file, as ONNX or for other tools; or a genotype as JSON.

.safetensors and .pth open in sr_nas and, with its bridge, in spandrel; .pth in BasicSR too. .onnx and .pt2 (torch.export) take
any batch, height and width, have BatchNorm folded, and are written only if they give what PyTorch gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``export``."""
    parser = argparse.ArgumentParser(prog="export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", metavar="DIR", type=Path, help="folder of a training; of a search for .json")
    which.add_argument("--model", metavar="FILE", type=Path, help="exported file, or released weights (.pth, .pt) with --arch")
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype of released weights that do not tell it")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        type=Path,
        help=".safetensors, .pth, .onnx or .pt2 for the network; .json for its genotype alone",
    )
    parser.add_argument("--last", action="store_true", help="the last network instead of the best")
    parser.add_argument("--fp16", action="store_true", help="ONNX that computes in float16; input and output stay float32")
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: 18)")
    parser.add_argument("--no_card", action="store_true", help="no model card; else FILE.md is written beside the network")
    parser.add_argument("--license", metavar="NAME", help="license of the weights, for the model card (default: not stated)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file and its model card if they exist")
    parsed = parser.parse_args(arguments)

    from sr_nas.errors import UserError
    from sr_nas.jobs.export import Writing, export_model, export_run

    how = Writing(parsed.output, parsed.overwrite, parsed.opset, parsed.fp16, not parsed.no_card, parsed.license)
    if parsed.model is not None:
        if parsed.last:
            raise UserError("--last is for --run: a file holds one network.")
        lines = export_model(parsed.model, parsed.arch, parsed.genotype, how)
    else:
        if parsed.arch is not None or parsed.genotype is not None:
            raise UserError("--arch and --genotype are for --model: a run knows its own.")
        lines = export_run(parsed.run, how, parsed.last)
    for line in lines:
        print(line)
    return 0
