"""Measure PSNR and SSIM by the protocol of the field's tables, beside bicubic."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Run ``evaluate``."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    parser.add_argument("--model", required=True, help="exported file, run folder, or released weights with --arch")
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype of released weights that do not tell it")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folder of HR images, or a set's folder with HR/ and LR_matlab/x4/; 'sample' is the held-out sample photo",
    )
    parser.add_argument(
        "--lr", type=Path, metavar="DIR", help="folder of the LR images; by default the set's own, else made from HR"
    )
    parser.add_argument("--scale", type=int, help="upscaling factor (default: the network's)")
    parser.add_argument("--tile", type=int, metavar="N", help="run the network in tiles of N x N LR pixels, as inference can")
    parser.add_argument(
        "--num_gpu", choices=("auto", "0", "1"), default="auto", help="device, as in option files (default: auto)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parsed = parser.parse_args(arguments)

    from rich.console import Console

    from sr_nas.errors import UserError
    from sr_nas.export.model import load_model
    from sr_nas.jobs.evaluate import evaluate
    from sr_nas.runs.device import pick_device

    if parsed.lr is not None and len(parsed.data) > 1:
        raise UserError("--lr names the LR images of one set, but --data names several.")
    network = load_model(parsed.model, parsed.arch, parsed.genotype)
    if parsed.scale not in (None, network.scale):
        raise UserError(f"--scale {parsed.scale}: {parsed.model} upscales by {network.scale}.")
    device = pick_device(parsed.num_gpu if parsed.num_gpu == "auto" else int(parsed.num_gpu))
    result = evaluate(network, parsed.data, parsed.lr, device, Console(stderr=True), parsed.tile)
    if parsed.json:
        json.dump(_finite(result), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        _print(Console(), parsed.model, result)
    return 0


def _print(console: Any, model: str, result: dict[str, Any]) -> None:
    from rich.table import Table

    for name, scores in result["sets"].items():
        table = Table(title=f"{name} x{result['scale']}")
        table.add_column("image")
        for heading in ("bicubic dB", "SSIM", f"{Path(model).name} dB", "SSIM"):
            table.add_column(heading, justify="right")
        rows = {**scores["images"], "mean": scores}
        for image, row in rows.items():
            baseline = row["bicubic"]
            cells = [f"{baseline['psnr']:.3f}", f"{baseline['ssim']:.4f}", f"{row['psnr']:.3f}", f"{row['ssim']:.4f}"]
            table.add_row(
                image, *cells, style="bold" if row is scores else "", end_section=row is list(scores["images"].values())[-1]
            )
        console.print(table)
        console.print(f"LR images: {scores['lr']}\n", highlight=False, soft_wrap=True)
    protocol = Table.grid(padding=(0, 2))
    for what, how in result["protocol"].items():
        protocol.add_row(f"  {what}", how)
    console.print("Protocol", style="bold")
    console.print(protocol)


def _finite(value: Any) -> Any:
    """JSON has no infinity: the PSNR of equal images becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isinf(value) else value
