"""Table 1 and figures 2 to 4 of SA-DARTS: gaps of beta, and quantities over the epochs, of searches in any space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sr_nas.analysis.figures import gaps_figure, method_curves
from sr_nas.analysis.history import (
    Curve,
    axis_label,
    closest_label,
    gap_labels,
    labels_of,
    mean_and_std,
    quantities,
    top2_gaps,
    upper_bound,
)
from sr_nas.analysis.methods import Method
from sr_nas.analysis.tables import Report, open_output, spread, write_csv, write_numbers
from sr_nas.errors import UserError, listing, nearest
from sr_nas.report.plots import BetaCurves, beta_figure, save

FIGURES: dict[str, tuple[str, int]] = {
    "overview": (r"gap_worst|share_.+|cifar10_test|macs_lr_1280x720", 3),
    "alpha": (r"alpha_(mean|median|std)", 3),
    "gap": (r"gap_(worst|mean)", 2),
    "share": (r"share_.+", 1),
    "accuracy": (r"\w+_(valid|test)", 2),
    "size": (r"params|macs_.+", 3),
    "loss": (r"loss_(task|train)", 2),
}
"""Figure -> pattern of its quantities, drawn where they are known, and its number of columns."""


def gaps(methods: Sequence[Method], edge: str | None, output: Path | None) -> Report:
    """Compare the top-2 gap of beta at each method's last epoch; write ``gaps.json``, ``.csv`` (by seed) and ``.png``.

    "The same edge with the closest difference" (the paper's caption) is ``edge``, the choice whose gap has the smallest mean
    over the seeds. "Their worst edge in each trial" (its text) is ``worst``: each seed's own.

    Args:
        methods: to compare.
        edge: compare all methods on this choice instead of each one's closest.
        output: folder, by default a new one.

    Raises:
        UserError: a choice that a method does not have or that keeps more than one.
    """
    rows = [_gap_row(method, edge) for method in methods]
    folder = open_output(output, "gaps")
    write_numbers(folder / "gaps.json", rows)
    by_seed = [
        {"method": row["method"], "epoch": row["epoch"], "seed": seed, "edge": row["edge"], "gap_edge": row["gap_edge"][trial]}
        | {"worst_edge": row["worst_edges"][trial], "gap_worst": row["gap_worst"][trial]}
        for row in rows
        for trial, seed in enumerate(row["seeds"])
    ]
    write_csv(folder / "gaps.csv", by_seed)
    ticks = {row["method"]: f"{row['edge']}, epoch {row['epoch']}" for row in rows}
    save(gaps_figure({row["method"]: row["gap_edge"] for row in rows}, ticks), folder / "gaps.png")
    columns = {"gap there": "gap_edge", "each seed's worst": "gap_worst", "mean of edges": "gap_mean"}
    printed = [
        {"method": row["method"], "seeds": str(len(row["seeds"])), "epoch": str(row["epoch"]), "edge": row["edge"]}
        | {heading: spread(row[f"{name}_mean"], row[f"{name}_std"], ".1e") for heading, name in columns.items()}
        for row in rows
    ]
    return Report(folder, printed, [note for method in methods for note in method.note()])


def _gap_row(method: Method, edge: str | None) -> dict[str, Any]:
    labels = gap_labels(method.choices)
    if not labels:
        raise UserError(f"{method.name} has no choice that keeps one operation of several: there is no gap.")
    if edge is not None and edge not in labels:
        raise UserError(f"--edge: {method.name} has no '{edge}'{nearest(edge, labels)} It has: {listing(labels, 30)}.")
    records = method.last()
    betas = [record["beta"] for record in records]
    trials = [top2_gaps(beta, labels) for beta in betas]
    edge = edge or closest_label(betas, labels)
    row: dict[str, Any] = {"method": method.name, "epoch": records[0]["epoch"], "seeds": method.seeds, "edge": edge}
    for name, values in (
        ("gap_edge", [trial[edge] for trial in trials]),
        ("gap_worst", [min(trial.values()) for trial in trials]),
        ("gap_mean", [sum(trial.values()) / len(trial) for trial in trials]),
    ):
        mean, std = mean_and_std(values)
        row |= {name: values, f"{name}_mean": float(mean), f"{name}_std": float(std)}
    return row | {"worst_edges": [min(trial, key=trial.__getitem__) for trial in trials], "gaps": trials}


def curves(methods: Sequence[Method], edge: str | None, operation: str, output: Path | None) -> Report:
    """Draw methods over their epochs and write the numbers.

    ``beta.png`` has one choice of every method (figures 2 and 4), ``beta_<method>.png`` all choices of operations of one and
    ``beta_<method>_inputs.png`` those of inputs; ``alpha.png`` is figure 3. Then come the figures of :data:`FIGURES`,
    ``curves.json`` with means and deviations over seeds, and ``curves.csv`` and ``beta.csv`` with every run's own numbers.

    Args:
        methods: to compare; a quantity that one of them does not have, such as true accuracy, is not drawn for it.
        edge: the choice in ``beta.png``, by default the first.
        operation: whose share of the network is followed.
        output: folder, by default a new one.

    Raises:
        UserError: a method has no such choice, or no method such an operation.
    """
    for method in methods:
        if edge is not None and edge not in method.choices:
            has = f"It has: {listing(method.choices, 40)}."
            raise UserError(f"--edge: {method.name} has no '{edge}'{nearest(edge, method.choices)} {has}")
    operations = {
        name: None for method in methods for label in labels_of(method.choices) for name in method.choices[label].candidates
    }
    if operation not in {"skip_connect", *operations}:
        raise UserError(f"--operation: no method has '{operation}'{nearest(operation, operations)} Known: {listing(operations)}.")
    scalars = {method.name: _scalar_curves(method, operation) for method in methods}
    folder = open_output(output, "curves")
    _write_files(folder, methods, scalars, operation)
    _draw_scalars(folder, scalars, _band(methods))
    compared = [(method, edge or next(iter(method.choices))) for method in methods]
    _draw_beta(folder / "beta.png", {f"{method.name}, {label}": (method, label) for method, label in compared}, methods)
    for method in methods:
        stem = f"beta_{re.sub(r'[^A-Za-z0-9._+-]+', '_', method.name)}"
        _draw_beta(folder / f"{stem}.png", {label: (method, label) for label in labels_of(method.choices)}, [method])
        inputs = {label: (method, label) for label in labels_of(method.choices, "inputs")}
        _draw_beta(folder / f"{stem}_inputs.png", inputs, [method])
    printed = [name for name in ("gap_worst", f"share_{operation}", "cifar10_test", "macs_lr_1280x720") if _known(name, scalars)]
    rows = [
        {"method": method.name, "seeds": str(len(method.runs)), "epoch": str(method.last()[0]["epoch"])}
        | {axis_label(name)[0]: _last(scalars[method.name].get(name), axis_label(name)[1]) for name in printed}
        for method in methods
    ]
    return Report(folder, rows, [note for method in methods for note in method.note()])


def _scalar_curves(method: Method, operation: str) -> dict[str, Curve]:
    runs = [quantities(history, method.choices, operation) for history in method.histories()]
    return {
        name: Curve(method.epochs, *mean_and_std([run[name] for run in runs]))
        for name in runs[0]
        if all(name in run for run in runs)
    }


def _known(name: str, scalars: Mapping[str, Mapping[str, Curve]]) -> bool:
    return any(name in curves for curves in scalars.values())


def _last(curve: Curve | None, unit: float) -> str:
    return "-" if curve is None else spread(curve.mean[-1] / unit, curve.std[-1] / unit, ".4g", ".2g")


def _beta_curve(method: Method, label: str) -> Curve:
    trials = [[record["beta"][label] for record in history] for history in method.histories()]
    return Curve(method.epochs, *mean_and_std(trials))


def _draw_scalars(folder: Path, scalars: Mapping[str, Mapping[str, Curve]], band: str) -> None:
    names = list(dict.fromkeys(name for curves in scalars.values() for name in curves))
    for figure, (pattern, columns) in FIGURES.items():
        panels: dict[str, dict[str, Curve]] = {}
        bounds: dict[str, float | None] = {}
        for name in names:
            if re.fullmatch(pattern, name):
                title, unit = axis_label(name)
                bounds[title] = upper_bound(name)
                panels[title] = {
                    method: Curve(curves[name].epochs, curves[name].mean / unit, curves[name].std / unit)
                    for method, curves in scalars.items()
                    if name in curves
                }
        if panels:
            save(method_curves(panels, min(columns, len(panels)), band, bounds), folder / f"{figure}.png")


def _draw_beta(file: Path, panels: Mapping[str, tuple[Method, str]], methods: Sequence[Method]) -> None:
    curves = {}
    for title, (method, label) in panels.items():
        names, curve = method.choices[label].candidates, _beta_curve(method, label)
        curves[title] = BetaCurves(curve.epochs, names, curve.mean, [names[int(curve.mean[-1].argmax())]], curve.std)
    if curves:
        save(beta_figure(curves, _band(methods)), file)


def _band(methods: Sequence[Method]) -> str:
    """Return the heading of a legend, which says what the bands are."""
    counts = sorted({len(method.runs) for method in methods})
    if counts == [1]:
        return "one seed each"
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"mean of {seeds},\nband: one standard\ndeviation"


def _write_files(folder: Path, methods: Sequence[Method], scalars: Mapping[str, Mapping[str, Curve]], operation: str) -> None:
    def numbers(curve: Curve) -> dict[str, Any]:
        return {"mean": curve.mean.tolist(), "std": curve.std.tolist()}

    content = {
        method.name: {
            "runs": [str(run.folder) for run in method.runs],
            "seeds": method.seeds,
            "epochs": method.epochs,
            "quantities": {name: numbers(curve) for name, curve in scalars[method.name].items()},
            "beta": {
                label: {"candidates": list(choice.candidates)} | numbers(_beta_curve(method, label))
                for label, choice in method.choices.items()
            },
        }
        for method in methods
    }
    write_numbers(folder / "curves.json", content)
    rows, betas = [], []
    for method in methods:
        for seed, history in zip(method.seeds, method.histories(), strict=True):
            run = quantities(history, method.choices, operation)
            for place, record in enumerate(history):
                epoch = {"method": method.name, "seed": seed, "epoch": record["epoch"]}
                rows.append(epoch | {name: float(values[place]) for name, values in run.items()})
                betas += [
                    epoch | {"choice": label, "candidate": name, "alpha": alpha, "beta": beta}
                    for label, choice in method.choices.items()
                    for name, alpha, beta in zip(choice.candidates, record["alpha"][label], record["beta"][label], strict=True)
                ]
    write_csv(folder / "curves.csv", rows)
    write_csv(folder / "beta.csv", betas)
