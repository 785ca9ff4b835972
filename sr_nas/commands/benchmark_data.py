"""Measure what the training's loader delivers, beside basicsr's: patches a second and peak memory of every way to read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_nas.commands import benchmarks
from sr_nas.commands.numbers import at_least


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark data``."""
    parser = argparse.ArgumentParser(prog="benchmark data", description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of HR images (default: synthetic ones)")
    parser.add_argument("--images", type=at_least(2), default=8, metavar="N", help="how many images (default: 8)")
    parser.add_argument("--size", type=_size, default=(2040, 1356), metavar="WxH", help="of synthetic ones (default: 2040x1356)")
    parser.add_argument("--workers", type=int, choices=(0, 1), default=1, help="processes that read ahead (default: 1)")
    parser.add_argument("--scale", type=at_least(1), default=2, help="HR pixels per LR pixel and side (default: 2)")
    parser.add_argument("--gt_size", type=at_least(1), default=192, help="side of the HR patch (default: 192)")
    parser.add_argument("--batch", type=at_least(1), default=16, metavar="N", help="patches per batch (default: 16)")
    parser.add_argument("--rounds", type=at_least(1), default=5, metavar="N", help="rounds, in turns (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="per loader and round, at least (default: 1)")
    benchmarks.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parsed = parser.parse_args(arguments)

    import tempfile

    from sr_nas.errors import UserError
    from sr_nas.jobs.loader_benchmark import Plan, measure

    if parsed.gt_size % parsed.scale:
        raise UserError(f"--gt_size {parsed.gt_size} must be a multiple of --scale {parsed.scale}.")
    device, machine = benchmarks.ready(parsed)
    plan = Plan(
        images=parsed.images,
        size=parsed.size,
        scale=parsed.scale,
        gt_size=parsed.gt_size,
        batch_size=parsed.batch,
        workers=parsed.workers,
        rounds=parsed.rounds,
        seconds=parsed.seconds,
        device=device.type,
    )
    with tempfile.TemporaryDirectory(prefix="sr_nas_benchmark_") as place:
        result = measure(plan, Path(place), parsed.data, benchmarks.progress())
    benchmarks.show({"machine": machine} | result, parsed.json, _table)
    return 0


def _table(console: Any, result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"x{result['scale']}, batches of {result['batch_size']}, workers: {result['workers']}")
    table.add_column("loader")
    for heading in ("images", "patches/s", "ratio", "peak MB"):
        table.add_column(heading, justify="right")
    for name, row in result["loaders"].items():
        peak = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        (low, high), (least, most) = row["spread"], row["ratio_spread"]
        rate, ratio = f"{row['patches_per_s']:.0f} ({low:.0f}-{high:.0f})", f"{row['ratio']:.2f} ({least:.2f}-{most:.2f})"
        table.add_row(name, str(row["images"]), rate, ratio, peak)
    console.print(table)
    console.print(
        f"Medians of rounds in turns, and quartiles; ratio: to {result['reference']}, of the same round.\n"
        "Peak: resident memory of the process that reads. Loaders without cache decode an image for each patch.\n"
        "The files were just written and lie in the system's memory: the speed of the disk comes on top.",
        highlight=False,
        soft_wrap=True,
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 2040x1356")
    return int(found[1]), int(found[2])
