"""Make data sets ready: fetch them, make LR images, crop, pack into LMDB, check.

Every part can be stopped and run again: what is done is kept, and nothing is half written under its final name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sr_nas.preparation.catalog import SETS

Formatter = argparse.RawDescriptionHelpFormatter


def main(arguments: Sequence[str]) -> int:
    """Run ``prepare_data``."""
    parser = argparse.ArgumentParser(prog="prepare_data", description=__doc__, formatter_class=Formatter)
    jobs = parser.add_subparsers(metavar="JOB", required=True)
    for name in SETS:
        _set_parser(jobs, name)
    _lr_parser(jobs)
    _crop_parser(jobs)
    _lmdb_parser(jobs)
    _check_parser(jobs)
    parsed = parser.parse_args(arguments)

    from sr_nas.commands import preparing

    run: Callable[[argparse.Namespace], int] = getattr(preparing, parsed.run)
    return run(parsed)


def _set_parser(jobs: Any, name: str) -> None:
    job = jobs.add_parser(name, help=f"fetch {name}; several sets may be named at once")
    job.set_defaults(run="fetch", first=name)
    job.add_argument("more", nargs="*", metavar="SET", type=_set_name, help=f"further sets: {', '.join(SETS)}")
    job.add_argument(
        "--root", type=Path, default=Path("datasets"), metavar="DIR", help="folder of all data sets (default: datasets)"
    )
    taken = "a benchmark set from this folder or archive, of any known layout"
    if SETS[name][0].files:
        # What a set of super-resolution beside it is then fetched with.
        job.set_defaults(scales=None, hr_only=False, split=("train", "valid"))
        taken = "the set from this archive or folder"
    else:
        _scales(job, None, "LR images to take with HR (default: 2 3 4; with --from all there are)", (2, 3, 4))
        job.add_argument("--hr_only", action="store_true", help="no LR images: they can be made by 'lr', or on the fly")
        job.add_argument(
            "--split", nargs="+", choices=("train", "valid"), default=("train", "valid"), help="of div2k (default: both)"
        )
    job.add_argument("--from", dest="source", type=Path, metavar="PATH", help=f"take {taken}")


def _lr_parser(jobs: Any) -> None:
    job = jobs.add_parser("lr", help="make LR images exactly as MATLAB's imresize does, into X2/NAMEx2.png")
    job.set_defaults(run="make_lr")
    job.add_argument("hr", type=Path, metavar="HR", help="folder of HR images")
    job.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for X2, X3, ...")
    _scales(job, (2, 3, 4), "default: 2 3 4")
    _workers(job)


def _crop_parser(jobs: Any) -> None:
    job = jobs.add_parser("crop", help="cut HR and LR together into sub-images, HR/NAME_s001.png and LR/X2/NAME_s001.png")
    job.set_defaults(run="crop")
    job.add_argument("hr", type=Path, metavar="HR", help="folder of HR images")
    job.add_argument(
        "--lr", type=Path, metavar="DIR", help="folder of X2, X3, ...; without it LR is made from the whole HR images"
    )
    job.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for HR and LR")
    _scales(job, (2, 3, 4), "default: 2 3 4")
    job.add_argument("--size", type=int, default=480, help="side of a sub-image in HR pixels (default: 480)")
    job.add_argument("--step", type=int, default=240, help="HR pixels from one to the next (default: 240)")
    _workers(job)


def _lmdb_parser(jobs: Any) -> None:
    job = jobs.add_parser("lmdb", help="pack a folder of images into an LMDB in BasicSR's layout")
    job.set_defaults(run="pack")
    job.add_argument("folder", type=Path, metavar="DIR", help="folder of images")
    job.add_argument("-o", "--output", type=Path, required=True, metavar="NAME.lmdb", help="the LMDB, a folder")
    job.add_argument(
        "--compression", type=int, choices=range(10), default=1, metavar="0..9", help="of PNG (default: 1, fast to read)"
    )
    _workers(job)


def _check_parser(jobs: Any) -> None:
    job = jobs.add_parser(
        "check", help="report what is unreadable, unpaired, of the wrong size, or there twice; exit code 1 if any is"
    )
    job.set_defaults(run="check")
    job.add_argument(
        "sets", nargs="+", type=Path, metavar="DIR", help="sets, such as datasets/DIV2K datasets/Set5, or folders of HR images"
    )
    job.add_argument("--lr", type=Path, metavar="DIR", help="LR images of the one folder of HR images; needs --scale")
    job.add_argument("--scale", type=int, metavar="N", help="of --lr")
    job.add_argument("--meta_info", type=Path, metavar="FILE", help="BasicSR's list of what the sets should hold")
    job.add_argument("--no_duplicates", action="store_true", help="do not look for pictures that are there twice")
    _workers(job)


def _scales(
    job: argparse.ArgumentParser, default: tuple[int, ...] | None, text: str, choices: Sequence[int] = range(2, 17)
) -> None:
    job.add_argument("--scales", nargs="+", type=int, choices=choices, default=default, metavar="N", help=text)


def _workers(job: argparse.ArgumentParser) -> None:
    job.add_argument("--workers", type=_positive, metavar="N", help="processes (default: one per core)")


def _set_name(word: str) -> str:
    if word not in SETS:
        raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(SETS)}")
    return word


def _positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is no positive number")
    return int(word)
