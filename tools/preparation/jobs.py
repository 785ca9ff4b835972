"""The jobs of ``prepare_data.py``: call, show the progress, print the result."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from preparation.catalog import Archive, Part
from preparation.check import check
from preparation.download import ARCHIVES, fetch_archive, is_there, parts_of, unpack
from preparation.generate import Grid, Result, crop, make_lr, write_lmdb
from sr_nas.data.layouts import ImageSet, by_stem, find_sets, read_meta_info
from sr_nas.errors import UserError
from sr_nas.images.folders import list_images
from sr_nas.runs.device import cores

MOST_LINES = 100
"""Lines that are printed of one kind of defect."""


def _fetch(args: Namespace) -> int:
    names = list(dict.fromkeys([args.first, *args.more]))
    missing: dict[Archive, list[Part]] = {}
    for part in parts_of(names, () if args.hr_only else args.scales, args.split):
        if is_there(part, args.root):
            print(f"{args.root / part.folder}: there already")
        else:
            missing.setdefault(part.archive, []).append(part)
    for archive, parts in missing.items():
        with _progress(DownloadColumn()) as progress:
            file = fetch_archive(archive, args.root / ARCHIVES, _reporter(progress, f"fetching {archive.name}"))
        for part in parts:
            written, existing = unpack(file, part, args.root)
            print(f"{args.root / part.folder}: {written} {part.contents} written" + (f", {existing} kept" if existing else ""))
    if (args.root / ARCHIVES).is_dir():
        print(f"The archives stay in {args.root / ARCHIVES}; nothing needs them any more.")
    return 0


def _make_lr(args: Namespace) -> int:
    scales = sorted(set(args.scales))
    return _follow(*make_lr(args.hr, args.output, scales, args.workers or cores(), args.overwrite), args.output)


def _crop(args: Namespace) -> int:
    grid = Grid(args.size, args.step, tuple(sorted(set(args.scales))))
    return _follow(*crop(args.hr, args.lr, args.output, grid, args.workers or cores(), args.overwrite), args.output)


def _follow(total: int, results: Iterator[Result], output: Path) -> int:
    written = existing = failed = 0
    with _progress(MofNCompleteColumn()) as progress:
        for result in progress.track(results, total=total, description="writing"):
            written, existing, failed = written + result.written, existing + result.existing, failed + bool(result.failure)
            if result.failure:
                progress.console.print(result.failure, markup=False, highlight=False, soft_wrap=True)
    counts = [f"{written} images written to {output}"]
    counts += [f"{existing} kept, since they existed"] if existing else []
    counts += [f"{failed} of {total} HR images failed"] if failed else []
    print(", ".join(counts))
    return 1 if failed else 0


def _write_lmdb(args: Namespace) -> int:
    total, numbers = write_lmdb(args.folder, args.output, args.compression, args.workers or cores())
    with _progress(MofNCompleteColumn()) as progress:
        for _ in progress.track(numbers, total=total, description="packing"):
            pass
    print(f"{args.output}: {total} images")
    return 0


def _check(args: Namespace) -> int:
    if (args.lr is None) != (args.scale is None):
        raise UserError("--lr and --scale go together: the folder of the LR images, and their scale.")
    sets = [layout for folder in dict.fromkeys(args.sets) for layout in find_sets(folder)]
    if args.lr is not None:
        if len(sets) > 1:
            raise UserError("--lr names the LR images of one folder of HR images, but several sets are named.")
        sets = [ImageSet(sets[0].name, sets[0].hr, {args.scale: by_stem(list_images(args.lr))})]
    listed = None if args.meta_info is None else read_meta_info(args.meta_info)
    with _progress(MofNCompleteColumn()) as progress:
        findings = check(sets, args.workers or cores(), not args.no_duplicates, listed, _reporter(progress, "reading"))
    print("\n".join(findings.counts))
    problems = {title: lines for title, lines in findings.problems.items() if lines}
    for title, lines in problems.items():
        rest = [f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
        print("\n  ".join([f"\n{title}: {len(lines)}", *lines[:MOST_LINES], *rest]))
    if not problems:
        print("\nnothing is wrong")
    return 1 if problems else 0


def _progress(count: DownloadColumn | MofNCompleteColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _reporter(progress: Progress, description: str) -> Callable[[int, int | None], None]:
    task = progress.add_task(description, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


JOBS: dict[str, Callable[[Namespace], int]] = {
    "fetch": _fetch,
    "lr": _make_lr,
    "crop": _crop,
    "lmdb": _write_lmdb,
    "check": _check,
}
