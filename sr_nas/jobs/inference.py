"""The command ``inference``: images and folders of images, upscaled."""

from __future__ import annotations

import math
import os
import time
from argparse import Namespace
from collections import Counter
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sr_nas.errors import UserError
from sr_nas.export.model import load_model, model_file, shipped_file
from sr_nas.images.files import IMAGE_SUFFIXES, image_size
from sr_nas.images.folders import find_images, natural_order
from sr_nas.inference.images import output_paths, upscale_files
from sr_nas.inference.optimize import for_inference
from sr_nas.inference.tiles import pools_globally
from sr_nas.runs.device import pick_device, use_threads

LOGGED_EVERY = 60.0
"""Seconds between lines of progress where no terminal shows a bar."""
TILE_NOTE = (
    "[yellow]note[/]: this network pools or resamples over the whole image, or works on a grid, so that tiles change its output "
    "slightly: each is an image of its own. Larger tiles, or --tile whole, change less or nothing."
)


def main(args: Namespace) -> int:
    """Run ``inference``."""
    console = Console(stderr=True, highlight=False)
    if args.output.suffix.lower() in IMAGE_SUFFIXES and not args.output.is_dir():
        raise UserError(f"--output {args.output}: this is the name of an image; name a folder.")
    inputs, roots, problems = _inputs(args)
    for problem in problems:
        console.print(problem, markup=False, soft_wrap=True)
    if not inputs:
        return 1
    device, threads = pick_device(args.num_gpu if args.num_gpu == "auto" else int(args.num_gpu)), use_threads(args.num_threads)
    source = shipped_file(f"x{args.scale or 2}") if args.model is None else model_file(args.model)
    network = load_model(source, args.arch, args.genotype)
    if args.scale not in (None, network.scale):
        raise UserError(f"--scale {args.scale}: {args.model} upscales by {network.scale}; --outscale resizes what it gives.")
    if args.model is None or source != Path(args.model):
        console.print(f"network: {source.stem}, which ships with sr_nas; sr-nas models lists all", soft_wrap=True)
    pixels = _pixels_to_upscale(inputs, output_paths(inputs, args.output, args.suffix, roots), args)
    executed, engine = for_inference(network, args.engine, device, args.precision, pixels)
    columns = (TextColumn("upscaling"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    warned, said = False, (started := time.monotonic())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(inputs))

        def show(share: float = 0) -> None:
            # Files that are skipped take no time, and would spoil the estimate of the time left.
            nonlocal said
            total, done = len(inputs) - counts["kept"] - counts["left out"], counts["written"] + counts["failed"] + share
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and (now := time.monotonic()) >= said + LOGGED_EVERY and 0 < done < total:
                said, left = now, (now - started) * (total - done) / done
                console.print(f"{done:.1f} of {total} images, about {left / 60:.1f} minutes left", soft_wrap=True)

        names = ("tile", "suffix", "overwrite", "precision", "ensemble", "outscale", "quality")
        options = {name: getattr(args, name) for name in names}
        for outcome in upscale_files(executed, inputs, args.output, roots=roots, device=device, progress=show, **options):
            counts[outcome.status] += 1
            dropped.update(outcome.dropped)
            show()
            if outcome.message:
                console.print(f"{outcome.source}: {outcome.message}", markup=False, soft_wrap=True)
            if outcome.tiles > 1 and not warned and pools_globally(network):
                warned = True
                console.print(TILE_NOTE, soft_wrap=True)
    remarks = {
        "written": f"written to {args.output} by {engine} on {device} (threads: {threads})",
        "kept": "kept as they were there (--overwrite replaces them)",
        "left out": "left out as outputs of others",
        "failed": "failed",
    }
    print(", ".join(f"{counts[status]} {remark}" for status, remark in remarks.items() if counts[status] or status == "written"))
    if dropped:
        print("not in the output: " + ", ".join(f"{name} of {count}" for name, count in dropped.items()))
    return 1 if counts["failed"] or problems else 0


def _inputs(args: Namespace) -> tuple[list[Path], list[Path], list[str]]:
    """Return the images that the arguments name, the folder each was found from, and what is wrong with some arguments.

    Raises:
        UserError: the only argument is wrong.
    """
    images: list[tuple[Path, Path]] = []
    problems: list[str] = []
    for path in args.input:
        if not os.path.isdir(path):
            images.append((path, path.parent))
            continue
        try:
            files = sorted(find_images(path, args.recursive, args.output), key=natural_order)
        except UserError as error:
            if len(args.input) == 1:
                raise
            problems.append(str(error))
        else:
            images += [(file, path) for file in files]
    return [file for file, _ in images], [root for _, root in images], problems


def _pixels_to_upscale(inputs: list[Path], outputs: list[Path], args: Namespace) -> int:
    """Return the LR pixels of the images that are not upscaled yet, from the heads of their files; 8 times for an ensemble."""
    pixels = 0
    for source, target in zip(inputs, outputs, strict=True):
        with suppress(UserError, OSError):  # what is wrong with a file is reported when its turn comes
            if args.overwrite or not target.exists():
                pixels += math.prod(image_size(source))
    return pixels * (8 if args.ensemble else 1)
