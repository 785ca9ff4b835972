"""Make data sets ready: fetch them, make LR images, crop, pack into LMDB, check.

Every job can be stopped and run again: finished files are kept, and nothing is half written under its final name.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

from preparation.catalog import SETS

from sr_nas.cli import whole_number, with_errors_printed


def _set_name(text: str) -> str:
    if text not in SETS:
        raise ArgumentTypeError(f"'{text}' is none of {', '.join(SETS)}")
    return text


def make_parser() -> ArgumentParser:
    """The arguments of every job."""
    parser = ArgumentParser(prog="prepare_data", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    for name in SETS:
        _fetch(jobs, name)

    lr = jobs.add_parser("lr", help="make LR images exactly as MATLAB's imresize does, into X2/NAMEx2.png")
    lr.add_argument("hr", type=Path, metavar="HR", help="folder of HR images")
    lr.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for X2, X3, ...")

    crop = jobs.add_parser("crop", help="cut HR and LR together into sub-images, HR/NAME_s001.png and LR/X2/NAME_s001.png")
    crop.add_argument("hr", type=Path, metavar="HR", help="folder of HR images")
    crop.add_argument("--lr", type=Path, metavar="DIR", help="folder of X2, X3, ...; by default LR is made from whole HR images")
    crop.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for HR and LR")
    crop.add_argument("--size", type=int, default=480, help="side of a sub-image in HR pixels (default: 480)")
    crop.add_argument("--step", type=int, default=240, help="HR pixels from one to the next (default: 240)")
    text = "replace outputs that differ from what is made now; without it they are reported and kept"
    for sub in (lr, crop):
        sub.add_argument("--overwrite", action="store_true", help=text)
        scales = range(2, 17)
        sub.add_argument("--scales", nargs="+", type=int, choices=scales, default=(2, 3, 4), metavar="N", help="default: 2 3 4")

    lmdb = jobs.add_parser("lmdb", help="pack a folder of images into an LMDB in BasicSR's layout")
    lmdb.add_argument("folder", type=Path, metavar="DIR", help="folder of images")
    lmdb.add_argument("-o", "--output", type=Path, required=True, metavar="NAME.lmdb", help="the LMDB, a folder")
    text = "level of PNG (default: 1, fast to read)"
    lmdb.add_argument("--compression", type=int, choices=range(10), default=1, metavar="0..9", help=text)

    text = "report images that are unreadable, unpaired, of the wrong size, or copies of another; exit code 1 if any is"
    check = jobs.add_parser("check", help=text)
    text = "sets, such as datasets/DIV2K datasets/Set5, or folders of HR images"
    check.add_argument("sets", nargs="+", type=Path, metavar="DIR", help=text)
    check.add_argument("--lr", type=Path, metavar="DIR", help="LR images of the one folder of HR images; needs --scale")
    check.add_argument("--scale", type=int, metavar="N", help="scale of the --lr images")
    check.add_argument("--meta_info", type=Path, metavar="FILE", help="BasicSR's list of what the sets should hold")
    check.add_argument("--no_duplicates", action="store_true", help="do not look for copies of a picture")
    for sub in (lr, crop, lmdb, check):
        sub.add_argument("--workers", type=whole_number, metavar="N", help="processes (default: one per core)")
    return parser


def _fetch(jobs: _SubParsersAction[ArgumentParser], name: str) -> None:
    text = "An archive that you have already is taken from archives/ in the folder of all data sets."
    sub = jobs.add_parser(name, help=f"fetch {name}; several sets may be named at once", description=text)
    sub.set_defaults(job="fetch", first=name)
    sub.add_argument("more", nargs="*", metavar="SET", type=_set_name, help=f"further sets: {', '.join(SETS)}")
    sub.add_argument("--root", type=Path, default=Path("datasets"), metavar="DIR", help="folder of data sets (default: datasets)")
    text = "LR images to fetch with HR (default: 2 3 4)"
    sub.add_argument("--scales", nargs="+", type=int, choices=(2, 3, 4), default=(2, 3, 4), metavar="N", help=text)
    sub.add_argument("--hr_only", action="store_true", help="no LR images: they can be made by 'lr', or on the fly")
    halves = ("train", "valid")
    sub.add_argument("--split", nargs="+", choices=halves, default=halves, help="splits of div2k (default: both)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a job; return its exit code."""
    args = make_parser().parse_args(arguments)
    from preparation.jobs import JOBS  # imports all that --help does not need

    return with_errors_printed("prepare_data", lambda: JOBS[args.job](args))


if __name__ == "__main__":
    sys.exit(main())
