"""Measure the time and the peak memory of upscaling one large photo, in a process of its own.

Name the network by --arch, with fresh weights, or by --model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``benchmark inference``."""
    parser = argparse.ArgumentParser(
        prog="benchmark inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--arch", help="architecture, e.g. imdn or dlsr")
    which.add_argument("--model", type=Path, metavar="PATH", help="run folder, exported file, option file or genotype file")
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="upscaling factor (default: 2)")
    parser.add_argument("--megapixels", type=float, default=20.0, metavar="M", help="size of the photo (default: 20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "options", nargs="*", metavar="-- OPTION", help="options of inference, after --: -- --tile 256 --num_gpu 0"
    )
    parsed = parser.parse_args(arguments)

    from sr_nas.commands.architecture import network_in, network_of
    from sr_nas.jobs.measure_inference import measure_inference

    if parsed.model is not None:
        network = network_in(parsed.model, parsed.scale)
    else:
        network = network_of(parsed.arch, parsed.scale or 2, {})
    result = measure_inference(network, parsed.megapixels, parsed.options)
    if parsed.json:
        print(json.dumps(result))
        return 0
    resident = result["resident_bytes"]
    print(f"{network.arch} x{result['scale']}: {result['width']}x{result['height']} pixels in {result['seconds']:.1f} s")
    print(f"peak resident memory of the process: {'unknown' if resident is None else f'{resident / 2**20:,.0f} MiB'}")
    if "cuda_bytes" in result:
        print(f"peak allocated on the GPU: {result['cuda_bytes'] / 2**20:,.0f} MiB")
    return 0
