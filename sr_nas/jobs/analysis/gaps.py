"""Table 1 of SA-DARTS: how far beta sets the best candidate apart, on the choice where it does so least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sr_nas.errors import UserError, listing, nearest
from sr_nas.jobs.analysis.methods import Method
from sr_nas.jobs.analysis.output import open_output, write_csv, write_numbers
from sr_nas.report.analyses import gaps_figure
from sr_nas.report.figures import save
from sr_nas.search.dispersion import closest_label, top2_gaps
from sr_nas.search.quantities import gap_labels, mean_and_std


def gaps(methods: Sequence[Method], label: str | None = None) -> list[dict[str, Any]]:
    """Return a row per method.

    "The same edge with the closest difference" (the paper's caption) is ``edge``: the choice whose gap has the smallest mean over
    the method's trials. "Their worst edge in each trial" (its text) is ``worst``: each trial's own.

    Args:
        methods: to compare, at the last epoch of each.
        label: the choice to compare all methods on instead of each one's closest.

    Raises:
        UserError: a choice that a method does not have or that keeps more than one.
    """
    return [_row(method, label) for method in methods]


def _row(method: Method, wanted: str | None) -> dict[str, Any]:
    labels = gap_labels(method.choices)
    if not labels:
        raise UserError(f"{method.name} has no choice that keeps one operation of several: there is no gap.")
    if wanted is not None and wanted not in labels:
        raise UserError(f"--edge: {method.name} has no '{wanted}'{nearest(wanted, labels)} It has: {listing(labels, 30)}.")
    records = method.last()
    trials = [record["beta"] for record in records]
    every = [top2_gaps(beta, labels) for beta in trials]
    edge = wanted or closest_label(trials, labels)
    row: dict[str, Any] = {"method": method.name, "epoch": records[0]["epoch"], "seeds": method.seeds, "edge": edge}
    for name, of in (
        ("edge", [found[edge] for found in every]),
        ("worst", [min(found.values()) for found in every]),
        ("mean", [sum(found.values()) / len(found) for found in every]),
    ):
        mean, std = mean_and_std([np.asarray(value) for value in of])
        row |= {f"gap_{name}": of, f"gap_{name}_mean": float(mean), f"gap_{name}_std": float(std)}
    return row | {"worst_edges": [min(found, key=lambda name: found[name]) for found in every], "gaps": every}


def write_gaps(rows: Sequence[dict[str, Any]], output: Path | None) -> Path:
    """Write ``gaps.json``, ``gaps.csv`` with a line per trial, and ``gaps.png``; return their folder."""
    folder = open_output(output, "gaps")
    write_numbers(folder / "gaps.json", rows)
    lines = [
        [
            row["method"],
            row["epoch"],
            seed,
            row["edge"],
            row["gap_edge"][trial],
            row["worst_edges"][trial],
            row["gap_worst"][trial],
        ]
        for row in rows
        for trial, seed in enumerate(row["seeds"])
    ]
    headings = ["method", "epoch", "seed", "edge", "gap_edge", "worst_edge", "gap_worst"]
    write_csv(folder / "gaps.csv", headings, lines)
    figure = gaps_figure(
        {row["method"]: row["gap_edge"] for row in rows}, {row["method"]: f"{row['edge']}, epoch {row['epoch']}" for row in rows}
    )
    save(figure, folder / "gaps.png")
    return folder
