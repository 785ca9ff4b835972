"""The command ``prepare_data``: call the job, show its progress, print its outcome."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as Speed

from sr_nas.data.layouts import Layout, recognise
from sr_nas.data.pairs import by_stem, read_meta_info
from sr_nas.errors import UserError, listing
from sr_nas.images.files import list_images
from sr_nas.preparation import generate as cropping
from sr_nas.preparation import generate as downscaling
from sr_nas.preparation.adopt import adopt
from sr_nas.preparation.adopt_files import adopt_files
from sr_nas.preparation.catalog import FOLDERS, SETS, Archive, Part
from sr_nas.preparation.check import Findings
from sr_nas.preparation.check import check as look_at
from sr_nas.preparation.download import ARCHIVES, Report, parts_of, prepare
from sr_nas.preparation.generate import write_lmdb
from sr_nas.preparation.outputs import Outcome, Placed, cores


def main(args: Namespace) -> int:
    """Run ``prepare_data``."""
    jobs = {"fetch": fetch, "lr": make_lr, "crop": crop, "lmdb": pack, "check": check}
    return jobs[args.job](args)


def fetch(args: Namespace) -> int:
    """Fetch published sets, or take one from a copy."""
    names = list(dict.fromkeys([args.first, *args.more]))
    console = Console(stderr=True)
    if args.source is not None and SETS[names[0]][0].files:
        return _take_files(names, args.source, args.root)
    if args.source is not None:
        return _take(names, args.source, args.root, () if args.hr_only else args.scales)
    parts = parts_of(names, () if args.hr_only else args.scales or (2, 3, 4), args.split)
    different = 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as loading:
        unpacking = _Unpacking(console)

        def fetching(archive: Archive) -> Report:
            task = loading.add_task(f"fetching {archive.name}", total=archive.size)
            return lambda done, total: loading.update(task, completed=done, total=total)

        for part, placed in prepare(parts, args.root, fetching, unpacking):
            different += _print_placed(args.root / part.folder, placed, part.holds)
    if (args.root / ARCHIVES).is_dir():
        print(f"The archives stay in {args.root / ARCHIVES}; nothing needs them any more.")
    return 1 if different else 0


class _Unpacking:
    """Says which part is being unpacked, once each: the bar of the download is still on the screen."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, part: Part, number: int) -> None:
        if number == 1:
            self.console.print(f"unpacking {part.folder}", markup=False, highlight=False)


def _take(names: list[str], source: Path, root: Path, scales: Sequence[int] | None) -> int:
    if len(names) > 1 or names[0] == "div2k":
        raise UserError("--from takes one set. DIV2K is read as it was published: put its folders into datasets/DIV2K.")
    count = SETS[names[0]][0].count
    different = sum([_print_placed(place, placed) for place, placed in adopt(source, root / FOLDERS[names[0]], count, scales)])
    return 1 if different else 0


def _take_files(names: list[str], source: Path, root: Path) -> int:
    if len(names) > 1:
        raise UserError("--from takes one set.")
    (part,) = SETS[names[0]]
    return 1 if _print_placed(root / part.folder, adopt_files(source, part, root), part.holds) else 0


def _print_placed(place: Path, placed: Placed | None, what: str = "images") -> int:
    """Say what was written to a folder; return how many files are other ones than those that were to be written."""
    if placed is None:
        print(f"{place}: there already")
        return 0
    parts = [f"{len(placed.written)} {what} written"]
    parts += [f"{len(placed.same)} were there"] if placed.same else []
    parts += [f"{len(placed.different)} KEPT THOUGH DIFFERENT ({listing(placed.different, 5)})"] if placed.different else []
    print(f"{place}: {', '.join(parts)}")
    return len(placed.different)


def make_lr(args: Namespace) -> int:
    """Make LR images."""
    scales = sorted(set(args.scales))
    return _follow("making LR", *downscaling.make_lr(args.hr, args.output, scales, args.workers or cores()), args.output)


def crop(args: Namespace) -> int:
    """Cut sub-images."""
    grid = cropping.Grid(args.size, args.step, tuple(sorted(set(args.scales))))
    return _follow("cropping", *cropping.crop(args.hr, args.lr, args.output, grid, args.workers or cores()), args.output)


def _follow(what: str, total: int, outcomes: Iterator[Outcome], output: Path) -> int:
    console = Console(stderr=True)
    written = kept = failed = 0
    with _progress(console) as progress:
        for outcome in progress.track(outcomes, total=total, description=what):
            written, kept, failed = written + outcome.written, kept + outcome.kept, failed + bool(outcome.failure)
            if outcome.failure:
                console.print(outcome.failure, markup=False, highlight=False, soft_wrap=True)
    parts = [f"{written} images written to {output}"]
    parts += [f"{kept} kept as they were there"] if kept else []
    parts += [f"{failed} of {total} HR images failed"] if failed else []
    print(", ".join(parts))
    return 1 if failed else 0


def pack(args: Namespace) -> int:
    """Write an LMDB."""
    with _progress(Console(stderr=True)) as progress:
        task = progress.add_task("packing", total=None)
        packed = write_lmdb(
            args.folder,
            args.output,
            args.compression,
            args.workers or cores(),
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    print(f"{args.output}: {packed.images} images" + ("" if packed.now else ", there already"))
    if packed.scale:
        print(f"Their keys are the names without x{packed.scale}, as basicsr expects keys of LR to be those of HR.")
    return 0


def check(args: Namespace) -> int:
    """Report what is wrong with sets."""
    if (args.lr is None) != (args.scale is None):
        raise UserError("--lr and --scale go together: the folder of the LR images, and their scale.")
    sets = [layout for folder in dict.fromkeys(args.sets) for layout in recognise(folder)]
    if args.lr is not None:
        if len(sets) > 1:
            raise UserError("--lr names the LR images of one folder of HR images, but several sets are named.")
        (only,) = sets
        sets = [Layout(only.name, only.kind, only.hr, {args.scale: by_stem(list_images(args.lr))})]
    listed = None if args.meta_info is None else read_meta_info(args.meta_info)
    with _progress(Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        found = look_at(sets, args.workers or cores(), not args.no_duplicates, listed, report)
    _print_findings(found, print)
    return 0 if found.fine else 1


def _print_findings(found: Findings, say: Callable[[str], None]) -> None:
    for name, kind, count in found.counts:
        alone = kind == "HR" and [found_name for found_name, _, _ in found.counts].count(name) == 1
        say(f"{name} {kind}: {count} images" + (", no LR found" if alone else ""))
    _section(say, "cannot be read", found.unreadable)
    for name, scale, without_lr, without_hr in found.unpaired:
        say(f"\n{name} x{scale} does not pair up:")
        for what, names in (("HR without LR", without_lr), ("LR without HR", without_hr)):
            say(f"  {what}: {len(names)}" + (f" ({listing(names, 10)})" if names else ""))
    _section(say, "LR images of the wrong size", found.misfits)
    _section(say, "differ from the list", found.unlisted)
    _section(
        say,
        "show the same picture, or one a part of it",
        [
            f"{pair.one} and {pair.other}: " + ("every pixel" if pair.likeness == 1 else f"likeness {pair.likeness:.4f}")
            for pair in found.duplicates
        ],
    )
    say("\nnothing is wrong" if found.fine else "")


def _section(say: Callable[[str], None], title: str, lines: list[str]) -> None:
    if lines:
        say(f"\n{title}: {len(lines)}")
        for line in lines:
            say(f"  {line}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
