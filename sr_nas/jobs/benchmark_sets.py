"""The sets of a benchmark at every scale that it needs, and what is missing of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.jobs.evaluate import open_set
from sr_nas.options.benchmark import BenchmarkOptions
from sr_nas.runs.measurements import digest, file_digest


@dataclass(frozen=True)
class BenchmarkSet:
    """A set at one scale.

    Attributes:
        name: in the table.
        scale: HR pixels per LR pixel and side.
        pairs: its images.
        lr: where its LR images come from, for people.
        contents: a digest of HR and LR of every image.
    """

    name: str
    scale: int
    pairs: Pairs
    lr: str
    contents: list[str]


@dataclass(frozen=True)
class Problem:
    """Why something of the table is not there."""

    where: str
    text: str


def benchmark_sets(options: BenchmarkOptions, scales: Iterable[int]) -> tuple[list[BenchmarkSet], list[Problem]]:
    """Open the sets; return those that are there, and what is wrong with the others."""
    found: list[BenchmarkSet] = []
    problems: dict[tuple[str, str], list[int]] = {}
    for name, place in options.datasets.items():
        for scale in scales if place is not None else ():
            opened = _open(name, Path(str(place)).expanduser(), scale)
            if isinstance(opened, BenchmarkSet):
                found.append(opened)
            else:
                problems.setdefault((name, opened), []).append(scale)
    told = [
        Problem(
            f"{name} {', '.join(f'x{scale}' for scale in at)}",
            f"{text.rstrip('.')}.{_where_to_get(Path(str(options.datasets[name])).expanduser())} Name another folder with "
            f"--force_yml datasets:{name}=FOLDER, or leave it out with datasets:{name}=null.",
        )
        for (name, text), at in problems.items()
    ]
    return found, told


def _where_to_get(place: Path) -> str:
    # What is there and cannot be used is not mended by fetching it.
    if place.exists():
        return ""
    return f" tools/prepare_data.py fetches published sets, or put its HR images into {place}/HR (see datasets/README.md)."


def _open(name: str, place: Path, scale: int) -> BenchmarkSet | str:
    """Return the set, or what is wrong with it."""
    try:
        _, pairs, lr = open_set(place, scale)
        contents = [digest(*(file_digest(Path(file)) for file in dict.fromkeys(files))) for files in pairs.files]
    except UserError as error:
        return str(error)
    return BenchmarkSet(name, scale, pairs, lr, contents)
