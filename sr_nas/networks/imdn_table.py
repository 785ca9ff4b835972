"""Table of trained networks of the IMDN space: PSNR, SSIM and costs of all 20,736, trained or predicted, in one small setting.

It serves for super-resolution as NAS-Bench-201 (Dong and Yang 2020) does for classification: searches in its setting state the
PSNR that their network has once it is trained, without training it. ``tools/build_benchmark.py`` makes the table;
docs/evidence.md describes it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_nas.networks.imdn import IMDN_OPERATIONS

FILE, TRAININGS = "imdn_table.npz", "imdn_trainings.csv"
SETTINGS: dict[str, Any] = {"scale": 2, "nf": 16, "num_blocks": 3}
"""Arguments of the networks of the table besides their genotype."""
DATA_SETS = ("Set5", "Set14", "B100")
"""Those that all networks are measured on; some are on Urban100 too."""


@cache
def table() -> Mapping[str, NDArray[Any]]:
    """Return the columns of the table, a row for each network in the order of :func:`place`.

    ``psnr`` [20736, data sets] in dB, of trained networks the mean over seeds, of the others predicted; ``predicted``, the same
    of all by prediction; ``trained`` [20736], from how many seeds, 0 for predicted; ``best`` [20736, data sets], the largest
    prediction among networks of at most as many multiply-adds; ``macs_hr``, ``params`` and ``latency_ms`` [20736], the last for
    an LR image of 320x180 on one core of an AMD EPYC, predicted.
    """
    with as_file(files("sr_nas.networks") / FILE) as path, np.load(path) as stored:
        columns = {name: stored[name] for name in stored.files}
    macs = columns["macs_hr"]
    order = np.argsort(macs)
    best = np.maximum.accumulate(columns["predicted"][order], axis=0)
    return columns | {"best": best[np.searchsorted(macs[order], macs, side="right") - 1]}


def read_trainings(file: Path | None = None) -> list[dict[str, str]]:
    """Return a row for each training of a CSV, by default the package's: candidates, ``nf``, seed, iterations, PSNR, SSIM.

    Rows of another ``nf`` than 16 are the published genotype at other widths, and no part of the table. What was not measured is
    an empty text. There are none where there is no such file.
    """
    source = file or files("sr_nas.networks") / TRAININGS
    return list(csv.DictReader(source.read_text(encoding="utf-8").splitlines())) if source.is_file() else []


def place(names: Sequence[str]) -> int:
    """Return a network's row in the table: its four candidates as digits to base 12, the first being the most significant."""
    row = 0
    for name in names:
        row = len(IMDN_OPERATIONS) * row + IMDN_OPERATIONS.index(name)
    return row


def truth(settings: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    """Return data set -> ``psnr`` in dB, ``regret`` and ``trained`` of a network, ``None`` for one that is not in the table.

    The regret is by how much the best network of at most as many multiply-adds is better, in dB, by predictions; ``trained`` is
    the number of seeds that the PSNR is a mean over, 0 where it is predicted.

    Args:
        settings: all arguments of an IMDN (:meth:`sr_nas.networks.imdn.IMDN.settings`).
    """
    names = settings["genotype"]
    if any(settings[key] != value for key, value in SETTINGS.items()) or not set(names) <= set(IMDN_OPERATIONS):
        return None
    row, columns = place(names), table()
    return {
        name: {
            "psnr": round(float(columns["psnr"][row, number]), 3),
            "regret": round(float(columns["best"][row, number] - columns["psnr"][row, number]), 3),
            "trained": int(columns["trained"][row]),
        }
        for number, name in enumerate(DATA_SETS)
    }
