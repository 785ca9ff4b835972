"""Measure inference side by side: plain PyTorch, the network as it is made ready here, and ONNX Runtime.

Name the network by --arch, with fresh weights, or by --model. With --megapixels, measure instead the time and the peak memory of
upscaling one large photo by sr-nas inference, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_nas.commands import benchmarks
from sr_nas.commands.numbers import at_least


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark inference``."""
    parser = argparse.ArgumentParser(
        prog="benchmark inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", help="architecture, e.g. imdn or dlsr")
    which.add_argument("--model", type=Path, metavar="PATH", help="run folder, exported file, option file or genotype file")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype, with --arch (default: the published one)")
    parser.add_argument("--nf", type=at_least(8), metavar="N", help="feature channels, with --arch (default: the published)")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="upscaling factor (default: 2)")
    parser.add_argument("--size", type=_size, default=(180, 320), metavar="WxH", help="of the LR image (default: 320x180)")
    benchmarks.add_measuring(parser, rounds=7)
    parser.add_argument("--megapixels", type=float, metavar="M", help="measure a photo of so many megapixels instead")
    parser.add_argument(
        "options", nargs="*", metavar="-- OPTION", help="options of inference, with --megapixels: -- --tile 256 --num_gpu 0"
    )
    parsed = parser.parse_args(arguments)

    from sr_nas.commands.architecture import network_in, network_of
    from sr_nas.errors import UserError
    from sr_nas.genotype import read_genotype

    if parsed.model is not None:
        if parsed.genotype is not None or parsed.nf is not None:
            raise UserError(f"--genotype and --nf go with --arch; {parsed.model} describes itself.")
        network = network_in(parsed.model, parsed.scale)
    else:
        settings = {} if parsed.nf is None else {"nf": parsed.nf}
        settings |= {} if parsed.genotype is None else {"genotype": read_genotype(parsed.genotype)}
        network = network_of(parsed.arch, parsed.scale or 2, settings)
    if parsed.megapixels is not None:
        return _photo(network, parsed)
    if parsed.options:
        raise UserError("options of inference go with --megapixels.")
    return _side_by_side(network, parsed)


def _side_by_side(network: Any, parsed: argparse.Namespace) -> int:
    import torch

    from sr_nas.jobs.inference_benchmark import Plan, measure

    device, machine = benchmarks.ready(parsed)
    plan = Plan(parsed.size, parsed.rounds, torch.get_num_threads())
    height, width = plan.size
    about = {"machine": machine, "arch": network.arch, "settings": network.settings(), "size": [width, height]}
    benchmarks.show(about | measure(network.eval(), plan, device, benchmarks.progress()), parsed.json, _print)
    return 0


def _print(console: Any, found: dict[str, Any]) -> None:
    width, height = found["size"]
    title = f"{found['arch']}, LR {width}x{height}, {found['multiply_adds'] / 1e9:.2f} G multiply-adds"
    table = benchmarks.table_of(["variant"], ["seconds", "to plain", "CPU time", "GFLOPS", "peak MiB", "difference"], title)
    for variant, row in found["variants"].items():
        numbers = (*benchmarks.measured(row), f"{row['gflops']:.0f}", benchmarks.mebibytes(row["peak_bytes"]))
        table.add_row(variant, *numbers, f"{row['difference']:.1e}")
    console.print(table)
    for variant, reason in found["left_out"].items():
        console.print(f"{variant} is left out: {reason}", highlight=False, soft_wrap=True)
    console.print(
        "Medians of rounds in turns, quartiles in brackets; two FLOPs for a multiply-add of the plain network.\n"
        "Peak: what a pass adds to the memory of a process that does nothing else.",
        highlight=False,
        soft_wrap=True,
    )


def _photo(network: Any, parsed: argparse.Namespace) -> int:
    from sr_nas.jobs.measure_inference import measure_inference

    _, machine = benchmarks.ready(parsed)
    result = {"machine": machine} | measure_inference(network, parsed.megapixels, parsed.options)
    if parsed.json:
        print(json.dumps(result))
        return 0
    resident = result["resident_bytes"]
    print(f"{network.arch} x{result['scale']}: {result['width']}x{result['height']} pixels in {result['seconds']:.1f} s")
    print(f"peak resident memory of the process: {'unknown' if resident is None else f'{resident / 2**20:,.0f} MiB'}")
    if "cuda_bytes" in result:
        print(f"peak allocated on the GPU: {result['cuda_bytes'] / 2**20:,.0f} MiB")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 320x180")
    return int(found[2]), int(found[1])
