"""The true accuracies of NAS-Bench-201's networks (Dong & Yang, ICLR 2020), from a file inside the package."""

from __future__ import annotations

import csv
import gzip
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sr_nas.genotype import Genotype

ARCH = "NASBench201"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Digits 0 to 4 of a network's place in the file, the first edge being the most significant of six."""
DATA_SETS = ("cifar10", "cifar100", "imagenet16")
FILE = "nasbench201.npz"

Accuracies = dict[str, dict[str, float]]
"""data set -> ``valid`` and ``test``, top-1 in percent."""


@cache
def table() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Return accuracies, [15625, 3 data sets, (valid, test)], by place, and the official index of each place, [15625]."""
    with as_file(files("sr_nas.classification") / FILE) as path, np.load(path) as stored:
        return stored["accuracies"], stored["indices"]


def place(names: Sequence[str]) -> int:
    """Return the place of a network, by its six operations in the order of :data:`~sr_nas.classification.nasbench201.EDGES`."""
    found = 0
    for name in names:
        found = found * len(OPERATIONS) + OPERATIONS.index(name)
    return found


def names_at(where: int) -> tuple[str, ...]:
    """Return the six operations of the network at a place."""
    digits = np.base_repr(where, len(OPERATIONS)).zfill(6)
    return tuple(OPERATIONS[int(digit)] for digit in digits)


def official_index(genotype: Genotype) -> int | None:
    """Return a network's index in the official files, or ``None`` where it is none of NAS-Bench-201."""
    return None if genotype.arch != ARCH else int(table()[1][place(genotype.names)])


def true_accuracy(genotype: Genotype) -> Accuracies | None:
    """Return what a network reaches when trained for 200 epochs, or ``None`` where it is none of NAS-Bench-201.

    The benchmark's networks have 16 channels and 5 cells a stage; a search may run on a smaller supernet of the same cells.
    """
    if genotype.arch != ARCH:
        return None
    rows = table()[0][place(genotype.names)]
    return {
        name: {"valid": round(float(valid), 4), "test": round(float(test), 4)}
        for name, (valid, test) in zip(DATA_SETS, rows, strict=True)
    }


# MERGED: Make the file of true accuracies: python -m sr_nas.classification.nasbench201_table
# TABLE.csv.gz [OUTPUT.npz]``.


COLUMNS = ("c10_valid_200", "c10_test_200", "c100_valtest_200", "c100_test_200", "in16_valtest_200", "in16_test_200")


def pack(source: Path, target: Path) -> None:
    """Read a table of all networks, one row each, and write it in the order of their places."""
    count = len(OPERATIONS) ** 6
    accuracies = np.full((count, len(COLUMNS)), np.nan, np.float32)
    indices = np.zeros(count, np.uint16)
    with gzip.open(source, "rt", encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            where = place(re.findall(r"([^|~+]+)~\d", row["arch"]))
            accuracies[where] = [float(row[column]) for column in COLUMNS]
            indices[where] = int(row["index"])
    if np.isnan(accuracies).any() or len(set(indices.tolist())) != count:
        raise SystemExit(f"{source} does not hold {count:,} different networks.")
    np.savez_compressed(target, accuracies=accuracies.reshape(count, 3, 2), indices=indices)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    if not 1 <= len(given) <= 2:
        raise SystemExit(__doc__)
    pack(given[0], given[1] if len(given) == 2 else Path(__file__).with_name(FILE))
