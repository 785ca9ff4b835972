"""Table 1, figures 2 to 4 and section 6.6 of SA-DARTS, from the histories of searches.

Gaps of beta and quantities over the epochs are those of any space; replaced operations need NAS-Bench-201's true accuracies.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sr_nas.analysis.figures import gaps_figure, method_curves, replacement_figure
from sr_nas.analysis.history import (
    Method,
    SearchRun,
    Trials,
    axis_label,
    closest_label,
    gap_labels,
    labels_of,
    methods_of,
    read_run,
    top2_gaps,
)
from sr_nas.analysis.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.classification.nasbench201_table import DATA_SETS, true_accuracy
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype
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


def main(args: Namespace) -> int:
    """Run ``analyze gaps``, ``curves`` or ``replace``; return the exit code."""
    check_output(args.output)
    match args.what:
        case "gaps":
            report = gaps(methods_of(args.runs, args.epoch), args.edge, args.output)
        case "curves":
            report = curves(methods_of(args.runs, args.epoch), args.edge, args.operation, args.output)
        case _:
            report = replace(read_run(args.runs), args.edge or [], args.output)
    report.print(Console(markup=False))
    return 0


def gaps(methods: Sequence[Method], edge: str | None, output: Path | None) -> Report:
    """Compare the top-2 gap of beta at each method's last epoch; write ``gaps.json``, ``.csv`` (by seed) and ``.png``.

    "The same edge with the closest difference" (the paper's caption) is ``gap_edge``, on the choice whose gap has the smallest
    mean over the seeds, or on ``edge``. "Their worst edge in each trial" (its text) is ``gap_worst``: each seed's own.

    Raises:
        UserError: a choice that a method does not have or that keeps more than one.
    """
    rows = [_gap_row(method, edge) for method in methods]
    folder = open_output(output, "gaps")
    columns = {"gap_edge": "gap there", "gap_worst": "each seed's worst", "gap_mean": "mean of edges"}
    numbers = [
        row
        | {name: row[name].values[:, 0].tolist() for name in columns}
        | {f"{name}_{part}": float(getattr(row[name], part)[0]) for name in columns for part in ("mean", "std")}
        for row in rows
    ]
    write_numbers(folder / "gaps.json", numbers)
    by_seed = [
        {key: row[key] for key in ("method", "epoch", "edge")}
        | {"seed": seed, "gap_edge": row["gap_edge"][place], "gap_worst": row["gap_worst"][place]}
        | {"worst_edge": row["worst_edges"][place]}
        for row in numbers
        for place, seed in enumerate(row["seeds"])
    ]
    write_csv(folder / "gaps.csv", by_seed)
    labels = {row["method"]: f"{row['edge']}, epoch {row['epoch']}" for row in rows}
    save(gaps_figure({row["method"]: row["gap_edge"] for row in numbers}, labels), folder / "gaps.png")
    printed = [
        {"method": row["method"], "seeds": str(len(row["seeds"])), "epoch": str(row["epoch"]), "edge": row["edge"]}
        | {heading: row[name].last(form=".2g", std_form=".1g") for name, heading in columns.items()}
        for row in rows
    ]
    return Report(folder, printed, [note for method in methods for note in method.note()])


def _gap_row(method: Method, edge: str | None) -> dict[str, Any]:
    labels = gap_labels(method.choices)
    if not labels:
        raise UserError(f"{method.name} has no choice that keeps one operation of several: there is no gap.")
    if edge is not None and edge not in labels:
        raise UserError(f"--edge: {method.name} has no '{edge}'{nearest(edge, labels)} It has: {listing(labels, 30)}.")
    betas = [record["beta"] for record in method.last()]
    gaps = [top2_gaps(beta, labels) for beta in betas]
    edge = edge or closest_label(betas, labels)
    epoch = method.last()[0]["epoch"]
    of_runs = {"gap_edge": [run[edge] for run in gaps], "gap_worst": [min(run.values()) for run in gaps]}
    of_runs["gap_mean"] = [sum(run.values()) / len(run) for run in gaps]
    row = {"method": method.name, "epoch": epoch, "seeds": method.seeds, "edge": edge}
    row |= {name: Trials([epoch], np.array(values)[:, None]) for name, values in of_runs.items()}
    return row | {"worst_edges": [min(run, key=run.__getitem__) for run in gaps], "gaps": gaps}


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
            raise UserError(
                f"--edge: {method.name} has no '{edge}'{nearest(edge, method.choices)} It has: {listing(method.choices, 40)}."
            )
    choices = [method.choices[label] for method in methods for label in labels_of(method.choices)]
    operations = list(dict.fromkeys(name for choice in choices for name in choice.candidates))
    if operation not in ["skip_connect", *operations]:
        raise UserError(f"--operation: no method has '{operation}'{nearest(operation, operations)} Known: {listing(operations)}.")
    scalars = {method.name: method.quantities(operation) for method in methods}
    folder = open_output(output, "curves")
    _write(folder, methods, scalars)
    _draw(folder, methods, scalars, edge)
    names = ("gap_worst", f"share_{operation}", "cifar10_test", "macs_lr_1280x720")
    rows: list[dict[str, str]] = []
    for method in methods:
        rows.append({"method": method.name, "seeds": str(len(method.runs)), "epoch": str(method.last()[0]["epoch"])})
        for name in names:
            if any(name in known for known in scalars.values()):
                title, unit = axis_label(name)
                trials = scalars[method.name].get(name)
                rows[-1][title] = trials.last(unit) if trials else "-"
    return Report(folder, rows, [note for method in methods for note in method.note()])


def _draw(folder: Path, methods: Sequence[Method], scalars: Mapping[str, Mapping[str, Trials]], edge: str | None) -> None:
    band = _band(methods)
    names = list(dict.fromkeys(name for known in scalars.values() for name in known))
    for figure, (pattern, columns) in FIGURES.items():
        panels = {
            name: {method: known[name] for method, known in scalars.items() if name in known}
            for name in names
            if re.fullmatch(pattern, name)
        }
        if panels:
            save(method_curves(panels, min(columns, len(panels)), band), folder / f"{figure}.png")
    compared = [(method, edge or next(iter(method.choices))) for method in methods]
    betas = {f"{method.name}, {label}": _beta(method, label) for method, label in compared}
    save(beta_figure(betas, band), folder / "beta.png")
    for method in methods:
        stem = f"beta_{re.sub(r'[^A-Za-z0-9._+-]+', '_', method.name)}"
        for labels, ending in ((labels_of(method.choices), ""), (labels_of(method.choices, "inputs"), "_inputs")):
            if labels:
                panel = {label: _beta(method, label) for label in labels}
                save(beta_figure(panel, _band([method])), folder / f"{stem}{ending}.png")


def _beta(method: Method, label: str) -> BetaCurves:
    names, trials = method.choices[label].candidates, method.beta(label)
    return BetaCurves(trials.epochs, names, trials.mean, [names[int(trials.mean[-1].argmax())]], trials.std)


def _band(methods: Sequence[Method]) -> str:
    """Return the heading of a legend, which says what the bands are."""
    counts = sorted({len(method.runs) for method in methods})
    if counts == [1]:
        return "one seed each"
    return f"mean of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds,\nband: one standard\ndeviation"


def _write(folder: Path, methods: Sequence[Method], scalars: Mapping[str, Mapping[str, Trials]]) -> None:
    def numbers(trials: Trials) -> dict[str, Any]:
        return {"mean": trials.mean.tolist(), "std": trials.std.tolist()}

    content, rows, betas = {}, [], []
    for method in methods:
        histories = method.histories()
        content[method.name] = {
            "runs": [str(run.folder) for run in method.runs],
            "seeds": method.seeds,
            "epochs": [record["epoch"] for record in histories[0]],
            "quantities": {name: numbers(trials) for name, trials in scalars[method.name].items()},
            "beta": {
                label: {"candidates": list(choice.candidates)} | numbers(method.beta(label))
                for label, choice in method.choices.items()
            },
        }
        for run, (seed, history) in enumerate(zip(method.seeds, histories, strict=True)):
            for place, record in enumerate(history):
                epoch = {"method": method.name, "seed": seed, "epoch": record["epoch"]}
                values = {name: float(trials.values[run, place]) for name, trials in scalars[method.name].items()}
                rows.append(epoch | values)
                betas += [
                    epoch | {"choice": label, "candidate": name, "alpha": alpha, "beta": beta}
                    for label, choice in method.choices.items()
                    for name, alpha, beta in zip(choice.candidates, record["alpha"][label], record["beta"][label], strict=True)
                ]
    write_numbers(folder / "curves.json", content)
    write_csv(folder / "curves.csv", rows)
    write_csv(folder / "beta.csv", betas)


@dataclass(frozen=True)
class Replacement:
    """The candidates of an edge, the largest beta first.

    Attributes:
        betas: operation -> beta in the search's last epoch.
        accuracies: data set -> true test accuracies of the searched network with each operation, in percent.
    """

    betas: dict[str, float]
    accuracies: dict[str, list[float]]

    def in_order(self, dataset: str) -> tuple[int, int]:
        """Return the number of pairs of operations that beta and accuracy order alike, and the number of all pairs."""
        pairs = list(combinations(self.accuracies[dataset], 2))
        return sum(first > second for first, second in pairs), len(pairs)


def replacement(genotype: Genotype, betas: dict[str, float], label: str) -> Replacement:
    """Replace the operation of one edge of a searched network by each of its candidates.

    Raises:
        UserError: the network is not one of NAS-Bench-201, or has no such edge.
    """
    labels = [name for name, _ in genotype.picks]
    if label not in labels:
        raise UserError(f"--edge: there is no '{label}'{nearest(label, labels)} There are: {listing(labels)}.")
    betas = dict(sorted(betas.items(), key=lambda item: -item[1]))
    accuracies: dict[str, list[float]] = {dataset: [] for dataset in DATA_SETS}
    for operation in betas:
        picks = tuple((name, (operation,) if name == label else names) for name, names in genotype.picks)
        truth = true_accuracy(Genotype(genotype.arch, picks))
        if truth is None:
            raise UserError(f"true accuracies are known in NAS-Bench-201 alone, and {genotype.arch} is another space.")
        for dataset in DATA_SETS:
            accuracies[dataset].append(truth[dataset]["test"])
    return Replacement(betas, accuracies)


def replace(run: SearchRun, labels: Sequence[str], output: Path | None) -> Report:
    """Replace at these edges (``["all"]``: at all, none: at the first); write ``replace.json``, ``.csv`` and ``.png``.

    Raises:
        UserError: as :func:`replacement`.
    """
    labels = list(run.choices) if labels == ["all"] else list(dict.fromkeys(labels)) or [next(iter(run.choices))]
    last = run.history[-1]
    genotype = Genotype.from_json(last["genotype"])
    edges = {}
    for label in labels:
        candidates = run.choices[label].candidates if label in run.choices else ()
        edges[label] = replacement(genotype, dict(zip(candidates, last["beta"].get(label, ()), strict=True)), label)
    folder = open_output(output, "replace")
    content, notes = {}, []
    rows: list[dict[str, Any]] = []
    for label, edge in edges.items():
        content[label] = {"operations": list(edge.betas), "beta": list(edge.betas.values()), "test": edge.accuracies}
        content[label]["pairs_in_order"] = {dataset: edge.in_order(dataset) for dataset in DATA_SETS}
        counts = ", ".join("{} {} of {}".format(dataset, *edge.in_order(dataset)) for dataset in DATA_SETS)
        notes.append(f"{label}: pairs of operations that beta and accuracy order alike: {counts}.")
        for place, (operation, beta) in enumerate(edge.betas.items()):
            tests = {f"{dataset}_test": edge.accuracies[dataset][place] for dataset in DATA_SETS}
            rows.append({"edge": label, "operation": operation, "beta": beta, **tests})
    about = {"run": str(run.folder), "epoch": last["epoch"], "genotype": genotype.to_json()}
    write_numbers(folder / "replace.json", about | {"edges": content})
    write_csv(folder / "replace.csv", rows)
    accuracies = {label: edge.accuracies for label, edge in edges.items()}
    save(replacement_figure({label: edge.betas for label, edge in edges.items()}, accuracies), folder / "replace.png")
    formats = {"beta": ".4f"} | {f"{dataset}_test": ".2f" for dataset in DATA_SETS}
    texts = [{key.replace("_", " "): format(value, formats.get(key, "")) for key, value in row.items()} for row in rows]
    return Report(folder, texts, notes)
