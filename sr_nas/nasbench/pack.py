"""Make the package's file of true accuracies: ``python -m sr_nas.nasbench.pack TABLE.csv.gz [OUTPUT.npz]``."""

from __future__ import annotations

import csv
import gzip
import re
import sys
from pathlib import Path

import numpy as np

from sr_nas.nasbench.table import FILE, OPERATIONS, place

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
