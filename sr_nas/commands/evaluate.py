"""Measure PSNR and SSIM by the protocol of the field's tables, beside bicubic: one model, or all that an option file names.

-opt measures several models on several sets and writes the table; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Run ``evaluate``."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    table = parser.add_argument_group("a table of several models")
    table.add_argument("-opt", "--opt", metavar="FILE", help="option file (YAML), e.g. options/benchmark.yml")
    table.add_argument(
        "--force_yml", nargs="+", action="extend", metavar="KEY=VALUE", help="override options, e.g. datasets:Set5=DIR"
    )
    table.add_argument("--save_images", action="store_true", help="keep every SR image, as the option save_images does")
    parser.add_argument("--model", help="exported file, run folder, or released weights with --arch")
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype of released weights that do not tell it")
    parser.add_argument(
        "--data",
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
    parser.add_argument("--num_gpu", choices=("auto", "0", "1"), help="device, as in option files (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parsed = parser.parse_args(arguments)
    _one_form(parser, parsed)
    if parsed.opt is not None:
        return _benchmark(parsed)

    from rich.console import Console

    from sr_nas.errors import UserError
    from sr_nas.export.model import load_model
    from sr_nas.jobs.evaluate import evaluate
    from sr_nas.report.tables import finite
    from sr_nas.runs.device import pick_device

    if parsed.lr is not None and len(parsed.data) > 1:
        raise UserError("--lr names the LR images of one set, but --data names several.")
    network = load_model(parsed.model, parsed.arch, parsed.genotype)
    if parsed.scale not in (None, network.scale):
        raise UserError(f"--scale {parsed.scale}: {parsed.model} upscales by {network.scale}.")
    device = pick_device("auto" if parsed.num_gpu in (None, "auto") else int(parsed.num_gpu))
    result = evaluate(network, parsed.data, parsed.lr, device, Console(stderr=True), parsed.tile)
    if parsed.json:
        json.dump(finite(result), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        _print(Console(markup=False), parsed.model, result)
    return 0


def _one_form(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """Refuse arguments of the one form in the other, which would not heed them."""
    of_a_table = {"--force_yml": parsed.force_yml, "--save_images": parsed.save_images or None}
    names = ("model", "arch", "genotype", "data", "lr", "scale", "tile", "num_gpu")
    of_a_model = {f"--{name}": getattr(parsed, name) for name in names}
    if parsed.opt is None:
        if parsed.model is None or parsed.data is None:
            parser.error("name a model and its data with --model and --data, or an option file with -opt")
        wrong = [name for name, value in of_a_table.items() if value is not None]
        if wrong:
            parser.error(f"{wrong[0]} belongs to -opt")
    else:
        wrong = [name for name, value in of_a_model.items() if value is not None]
        if wrong:
            parser.error(f"{wrong[0]} is said by the option file; override it with --force_yml")


def _benchmark(parsed: argparse.Namespace) -> int:
    from sr_nas.options.benchmark import BenchmarkOptions
    from sr_nas.options.load import load_options

    overrides = [*(parsed.force_yml or ()), *(["save_images=true"] if parsed.save_images else ())]
    options = load_options(BenchmarkOptions, parsed.opt, overrides)

    from rich.console import Console

    from sr_nas.jobs.model_table import run_benchmark
    from sr_nas.report.tables import finite, print_tables

    results, code = run_benchmark(options, Console(stderr=True))
    if parsed.json:
        json.dump(finite(results), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        print_tables(Console(markup=False), results)
    told = f"{results['folder']} holds table.md, table.csv and table.json"
    print(told if code < 128 else f"stopped; the same command goes on. {told} of what is measured.", file=sys.stderr)
    return code


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
