"""The command ``inference``: images and folders of images, upscaled."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.images.files import IMAGE_SUFFIXES, find_images, list_images, natural_order
from sr_nas.inference.batch import upscale_files
from sr_nas.inference.tiles import pools_globally
from sr_nas.runs.device import pick_device


def main(args: Namespace) -> int:
    """Run ``inference``."""
    console = Console(stderr=True)
    if args.output.suffix.lower() in IMAGE_SUFFIXES and not args.output.is_dir():
        raise UserError(f"--output {args.output}: this is the name of an image; name a folder.")
    inputs: list[Path] = []
    roots: list[Path] = []
    without_images = 0
    for path in args.input:
        try:
            if path.is_dir():
                found = find_images(path, args.output) if args.recursive else sorted(list_images(path), key=natural_order)
            else:
                found = [path]
        except UserError as error:
            if len(args.input) == 1:
                raise
            without_images += 1
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            continue
        inputs += found
        roots += [path if path.is_dir() else path.parent] * len(found)
    if not inputs:
        return 1
    network = load_model(args.model, args.arch, args.genotype)
    columns = (TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    said = not pools_globally(network)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(inputs))
        outcomes = upscale_files(
            network,
            inputs,
            args.output,
            tile=args.tile,
            suffix=args.suffix,
            roots=roots,
            overwrite=args.overwrite,
            device=pick_device(args.num_gpu if args.num_gpu == "auto" else int(args.num_gpu)),
            precision=args.precision,
            ensemble=args.ensemble,
            outscale=args.outscale,
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
    parts = [f"{counts['written']} written to {args.output}"]
    parts += [f"{counts['kept']} kept as they were there (--overwrite replaces them)"] if counts["kept"] else []
    parts += [f"{counts['left out']} left out as outputs of others"] if counts["left out"] else []
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    print(", ".join(parts))
    if dropped:
        print("not in the output: " + ", ".join(f"{name} of {count}" for name, count in dropped.items()))
    return 1 if counts["failed"] or without_images else 0
