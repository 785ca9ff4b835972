"""Table 1 of SA-DARTS: how far beta sets the best candidate apart, on the choice where it does so least."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sr_nas.analysis.figures import Curve, beta_panels, gaps_figure, largest, method_curves, told
from sr_nas.analysis.history import (
    Values,
    closest_label,
    gap_labels,
    labels_of,
    mean_and_std,
    open_output,
    quantities,
    top2_gaps,
    write_csv,
    write_numbers,
)
from sr_nas.analysis.methods import Method
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Choices
from sr_nas.report.plots import save


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


# MERGED sr_nas.analysis.curves: Figures 2 to 4 of SA-DARTS, and more of the kind, from the histories of
# searches in any space.


FIGURES: dict[str, tuple[str, int]] = {
    "overview": (r"gap_worst|share_.+|cifar10_test|macs_lr_1280x720", 3),
    "alpha": (r"alpha_(mean|median|std)", 3),
    "gap": (r"gap_(worst|mean)", 2),
    "share": (r"share_.+", 1),
    "accuracy": (r"\w+_(valid|test)", 2),
    "size": (r"params|macs_.+", 3),
    "loss": (r"loss_(task|train)", 2),
}
"""Figure -> the quantities that it draws where they are known, and how many panels are beside each other."""


def write_curves(
    methods: Sequence[Method], output: Path | None = None, edge: str | None = None, operation: str = "skip_connect"
) -> Path:
    """Draw methods over their epochs and write the numbers; return the folder.

    ``beta.png`` has one choice of every method (figures 2 and 4), ``beta_<method>.png`` all choices of operations of one and
    ``beta_<method>_inputs.png`` those of inputs; ``alpha.png`` is figure 3. Then come the figures of :data:`FIGURES`,
    ``curves.json`` with means and deviations over seeds, and ``curves.csv`` and ``beta.csv`` with every run's own numbers.

    Args:
        methods: to compare; what one of them does not have, such as true accuracy, is not drawn for it.
        output: folder, by default a new one.
        edge: the choice in ``beta.png``, by default the first.
        operation: whose share of the network is followed.

    Raises:
        UserError: a method has no such choice, or no method such an operation.
    """
    for method in methods:
        if edge is not None and edge not in method.choices:
            raise UserError(
                f"--edge: {method.name} has no '{edge}'{nearest(edge, method.choices)} It has: {_all(method.choices)}."
            )
    known = list(dict.fromkeys(name for method in methods for name in _operations(method.choices)))
    if operation != "skip_connect" and operation not in known:
        raise UserError(f"--operation: no method has '{operation}'{nearest(operation, known)} Known: {listing(known)}.")
    trials = {method.name: [quantities(records, method.choices, operation) for records in method.records()] for method in methods}
    epochs = {method.name: [record["epoch"] for record in method.records()[0]] for method in methods}
    curves = {name: _curves(epochs[name], runs) for name, runs in trials.items()}
    betas = {method.name: _betas(method) for method in methods}

    folder = open_output(output, "curves")
    _write(folder, methods, trials, curves, betas)
    note = _note(methods)
    for figure, (pattern, columns) in FIGURES.items():
        names = list(dict.fromkeys(name for found in curves.values() for name in found if re.fullmatch(pattern, name)))
        if names:
            limits = {told(name)[0]: most for name in names if (most := largest(name)) is not None}
            save(method_curves(_panels(names, curves), min(columns, len(names)), note, limits), folder / f"{figure}.png")
    first = {method.name: edge or next(iter(method.choices)) for method in methods}
    save(
        beta_panels(
            {f"{name}, {label}": (_names(methods, name, label), betas[name][label]) for name, label in first.items()}, note
        ),
        folder / "beta.png",
    )
    for method in methods:
        file = f"beta_{re.sub(r'[^A-Za-z0-9._+-]+', '_', method.name)}"
        for of, ending in (("operations", ""), ("inputs", "_inputs")):
            labels = [label for label, choice in method.choices.items() if choice.of == of]
            panels = {label: (method.choices[label].candidates, betas[method.name][label]) for label in labels}
            if panels:
                save(beta_panels(panels, _note([method])), folder / f"{file}{ending}.png")
    return folder


def _curves(epochs: Sequence[int], runs: Sequence[Mapping[str, Values]]) -> dict[str, Curve]:
    return {
        name: Curve(epochs, *mean_and_std([run[name] for run in runs])) for name in runs[0] if all(name in run for run in runs)
    }


def _betas(method: Method) -> dict[str, Curve]:
    histories = method.records()
    epochs = [record["epoch"] for record in histories[0]]
    return {
        label: Curve(epochs, *mean_and_std([np.array([record["beta"][label] for record in records]) for records in histories]))
        for label in method.choices
    }


def _panels(names: Sequence[str], curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, Curve]]:
    panels: dict[str, dict[str, Curve]] = {}
    for name in names:
        title, unit = told(name)
        panels[title] = {
            method: Curve(found[name].epochs, found[name].mean / unit, found[name].std / unit)
            for method, found in curves.items()
            if name in found
        }
    return panels


def _write(
    folder: Path,
    methods: Sequence[Method],
    trials: Mapping[str, Sequence[Mapping[str, Values]]],
    curves: Mapping[str, Mapping[str, Curve]],
    betas: Mapping[str, Mapping[str, Curve]],
) -> None:
    def numbers(curve: Curve) -> dict[str, object]:
        return {"mean": curve.mean.tolist(), "std": curve.std.tolist()}

    content = {
        method.name: {
            "runs": [str(run.folder) for run in method.runs],
            "seeds": method.seeds,
            "epochs": list(next(iter(curves[method.name].values())).epochs),
            "quantities": {name: numbers(curve) for name, curve in curves[method.name].items()},
            "beta": {
                label: {"candidates": list(method.choices[label].candidates)} | numbers(curve)
                for label, curve in betas[method.name].items()
            },
        }
        for method in methods
    }
    write_numbers(folder / "curves.json", content)
    quantity_names = list(dict.fromkeys(name for runs in trials.values() for run in runs for name in run))
    rows = [
        [
            method.name,
            seed,
            record["epoch"],
            *(float(run[name][place]) if name in run else float("nan") for name in quantity_names),
        ]
        for method in methods
        for seed, records, run in zip(method.seeds, method.records(), trials[method.name], strict=True)
        for place, record in enumerate(records)
    ]
    write_csv(folder / "curves.csv", ["method", "seed", "epoch", *quantity_names], rows)
    beta_rows = [
        [method.name, seed, record["epoch"], label, name, record["alpha"][label][place], record["beta"][label][place]]
        for method in methods
        for seed, records in zip(method.seeds, method.records(), strict=True)
        for record in records
        for label, choice in method.choices.items()
        for place, name in enumerate(choice.candidates)
    ]
    write_csv(folder / "beta.csv", ["method", "seed", "epoch", "choice", "candidate", "alpha", "beta"], beta_rows)


def _note(methods: Sequence[Method]) -> str:
    counts = sorted({len(method.runs) for method in methods})
    if counts == [1]:
        return "one seed each"
    many = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"mean of {many},\nband: one standard\ndeviation"


def _names(methods: Sequence[Method], name: str, label: str) -> tuple[str, ...]:
    return next(method.choices[label].candidates for method in methods if method.name == name)


def _operations(choices: Choices) -> list[str]:
    return [name for label in labels_of(choices) for name in choices[label].candidates]


def _all(choices: Choices) -> str:
    return listing(choices, 40)
