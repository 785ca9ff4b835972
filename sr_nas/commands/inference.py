"""Upscale images: PNG, JPEG, WebP, BMP and TIFF; grey, RGB and RGBA; 8 and 16 bit stay what they are."""

from __future__ import annotations

import argparse
from collections import Counter
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
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|whole|N",
        help="auto, the default: whole images where the memory suffices, else tiles as large as fit; N: tiles of N x N LR pixels",
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="take the folders below too, and keep them in the output")
    parser.add_argument("--outscale", type=float, metavar="S", help="resize to S times the input, by bicubic after the network")
    parser.add_argument(
        "--ensemble", action="store_true", help="average over 8 flips and transpositions: about 0.1 dB for 8 times the time"
    )
    parser.add_argument("--suffix", default="", metavar="S", help="put between name and extension, e.g. _x2")
    parser.add_argument("--overwrite", action="store_true", help="replace images that exist; by default they are kept")
    parser.add_argument(
        "--num_gpu", choices=("auto", "0", "1"), default="auto", help="device, as in option files (default: auto)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="bf16 and fp16 are faster on a GPU and round more; the CPU knows no fp16 (default: fp32)",
    )
    parsed = parser.parse_args(arguments)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from sr_nas.errors import UserError
    from sr_nas.export.model import load_model
    from sr_nas.images.files import IMAGE_SUFFIXES, find_images, list_images, natural_order
    from sr_nas.inference.batch import upscale_files
    from sr_nas.inference.tiles import pools_globally
    from sr_nas.runs.device import pick_device

    console = Console(stderr=True)
    if parsed.output.suffix.lower() in IMAGE_SUFFIXES and not parsed.output.is_dir():
        raise UserError(f"--output {parsed.output}: this is the name of an image; name a folder.")
    inputs: list[Path] = []
    roots: list[Path] = []
    without_images = 0
    for path in parsed.input:
        try:
            if path.is_dir():
                found = find_images(path, parsed.output) if parsed.recursive else sorted(list_images(path), key=natural_order)
            else:
                found = [path]
        except UserError as error:
            if len(parsed.input) == 1:
                raise
            without_images += 1
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            continue
        inputs += found
        roots += [path if path.is_dir() else path.parent] * len(found)
    if not inputs:
        return 1
    network = load_model(parsed.model, parsed.arch, parsed.genotype)
    columns = (TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    said = not pools_globally(network)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(inputs))
        outcomes = upscale_files(
            network,
            inputs,
            parsed.output,
            tile=parsed.tile,
            suffix=parsed.suffix,
            roots=roots,
            overwrite=parsed.overwrite,
            device=pick_device(parsed.num_gpu if parsed.num_gpu == "auto" else int(parsed.num_gpu)),
            precision=parsed.precision,
            ensemble=parsed.ensemble,
            outscale=parsed.outscale,
            progress=lambda share: bar.update(task, completed=counts["written"] + counts["failed"] + share),
        )
        for outcome in outcomes:
            counts[outcome.status] += 1
            dropped.update(outcome.dropped)
            # What is kept takes no time, and would spoil the estimate of the time left.
            bar.update(
                task, completed=counts["written"] + counts["failed"], total=len(inputs) - counts["kept"] - counts["left out"]
            )
            if outcome.message:
                console.print(f"{outcome.source}: {outcome.message}", markup=False, highlight=False, soft_wrap=True)
            if outcome.tiles > 1 and not said:
                said = True
                console.print(
                    "[yellow]note[/]: this network pools or resamples over the whole image, so that tiles change its output "
                    "slightly: each is an image of its own. Larger tiles, or --tile whole, change less or nothing.",
                    soft_wrap=True,
                )
    parts = [f"{counts['written']} written to {parsed.output}"]
    parts += [f"{counts['kept']} kept as they were there (--overwrite replaces them)"] if counts["kept"] else []
    parts += [f"{counts['left out']} left out as outputs of others"] if counts["left out"] else []
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    print(", ".join(parts))
    if dropped:
        print("not in the output: " + ", ".join(f"{name} of {count}" for name, count in dropped.items()))
    return 1 if counts["failed"] or without_images else 0


def _tile(word: str) -> int | str | None:
    if word in ("auto", "whole"):
        return None if word == "whole" else word
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"auto, whole, or the side of the tiles, of at least one pixel, not '{word}'")
    return int(word)
