"""The command ``evaluate``: PSNR and SSIM of one model, or a table of several."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.jobs.evaluate import evaluate
from sr_nas.jobs.model_table import run_benchmark
from sr_nas.options.benchmark import BenchmarkOptions
from sr_nas.options.load import load_options
from sr_nas.report.tables import finite, print_tables
from sr_nas.runs.device import pick_device


def main(args: Namespace) -> int:
    """Run ``evaluate``."""
    _check_form(args)
    if args.opt is not None:
        return _benchmark(args)

    if args.lr is not None and len(args.data) > 1:
        raise UserError("--lr names the LR images of one set, but --data names several.")
    network = load_model(args.model, args.arch, args.genotype)
    if args.scale not in (None, network.scale):
        raise UserError(f"--scale {args.scale}: {args.model} upscales by {network.scale}.")
    device = pick_device("auto" if args.num_gpu in (None, "auto") else int(args.num_gpu))
    result = evaluate(network, args.data, args.lr, device, Console(stderr=True), args.tile)
    if args.json:
        json.dump(finite(result), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        _print(Console(markup=False), args.model, result)
    return 0


def _check_form(args: Namespace) -> None:
    """Refuse arguments of the one form in the other, which would not heed them."""
    of_a_table = {"--force_yml": args.force_yml, "--save_images": args.save_images or None}
    names = ("model", "arch", "genotype", "data", "lr", "scale", "tile", "num_gpu")
    of_a_model = {f"--{name}": getattr(args, name) for name in names}
    if args.opt is None:
        if args.model is None or args.data is None:
            raise UserError("name a model and its data with --model and --data, or an option file with -opt")
        wrong = [name for name, value in of_a_table.items() if value is not None]
        if wrong:
            raise UserError(f"{wrong[0]} belongs to -opt")
    else:
        wrong = [name for name, value in of_a_model.items() if value is not None]
        if wrong:
            raise UserError(f"{wrong[0]} is said by the option file; override it with --force_yml")


def _benchmark(args: Namespace) -> int:

    overrides = [*(args.force_yml or ()), *(["save_images=true"] if args.save_images else ())]
    options = load_options(BenchmarkOptions, args.opt, overrides)

    results, code = run_benchmark(options, Console(stderr=True))
    if args.json:
        json.dump(finite(results), sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        print_tables(Console(markup=False), results)
    told = f"{results['folder']} holds table.md, table.csv and table.json"
    print(told if code < 128 else f"stopped; the same command goes on. {told} of what is measured.", file=sys.stderr)
    return code


def _print(console: Any, model: str, result: dict[str, Any]) -> None:

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
