"""Upscale images: PNG, JPEG, WebP, BMP and TIFF; grey, RGB and RGBA; 8 and 16 bit stay what they are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``inference``."""
    parser = argparse.ArgumentParser(prog="inference", description=__doc__)
    parser.add_argument(
        "-i", "--input", required=True, nargs="+", type=Path, metavar="FILE|DIR", help="images, or folders of images"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder for the upscaled images")
    parser.add_argument("--model", required=True, help="exported file, run folder, or released weights with --arch")
    parser.add_argument("--arch", help="architecture of released weights, e.g. imdn or dlsr")
    parser.add_argument("--genotype", metavar="A,B,...|FILE", help="genotype of released weights that do not tell it")
    parser.add_argument(
        "--tile", type=int, metavar="N", help="cut the image in tiles of N x N LR pixels, for images that exceed the memory"
    )
    parser.add_argument("--suffix", default="", metavar="S", help="put between name and extension, e.g. _x2")
    parser.add_argument("--overwrite", action="store_true", help="replace images that exist; by default they are kept")
    parser.add_argument(
        "--num_gpu", choices=("auto", "0", "1"), default="auto", help="device, as in option files (default: auto)"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is faster on a GPU and rounds more (default: fp32)"
    )
    parsed = parser.parse_args(arguments)

    from rich.console import Console
    from rich.progress import track

    from sr_nas.errors import UserError
    from sr_nas.export.model import load_model
    from sr_nas.images.files import IMAGE_SUFFIXES, list_images
    from sr_nas.inference.batch import upscale_files
    from sr_nas.inference.receptive import pools_globally
    from sr_nas.runs.device import pick_device

    console = Console(stderr=True)
    if parsed.tile is not None and parsed.tile < 1:
        raise UserError(f"--tile {parsed.tile}: a tile has at least one pixel.")
    if parsed.output.suffix.lower() in IMAGE_SUFFIXES and not parsed.output.is_dir():
        raise UserError(f"--output {parsed.output}: this is the name of an image; name a folder.")
    inputs: list[Path] = []
    for path in parsed.input:
        inputs += list_images(path) if path.is_dir() else [path]
    network = load_model(parsed.model, parsed.arch, parsed.genotype)
    if parsed.tile is not None and pools_globally(network):
        console.print(
            "[yellow]note[/]: this network pools or resamples over the whole image, so that tiles change its output slightly: "
            "each is an image of its own. Without --tile, or with larger tiles, there is no or less such change.",
            soft_wrap=True,
        )
    outcomes = upscale_files(
        network,
        inputs,
        parsed.output,
        tile=parsed.tile,
        suffix=parsed.suffix,
        overwrite=parsed.overwrite,
        device=pick_device(parsed.num_gpu if parsed.num_gpu == "auto" else int(parsed.num_gpu)),
        precision=parsed.precision,
    )
    counts = {"written": 0, "kept": 0, "failed": 0}
    for outcome in track(outcomes, "upscaling", total=len(inputs), console=console, transient=True):
        counts[outcome.status] += 1
        if outcome.message:
            console.print(f"{outcome.source}: {outcome.message}", markup=False, highlight=False, soft_wrap=True)
    parts = [f"{counts['written']} written to {parsed.output}"]
    parts += [f"{counts['kept']} kept as they were there (--overwrite replaces them)"] if counts["kept"] else []
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    print(", ".join(parts))
    return 1 if counts["failed"] else 0
