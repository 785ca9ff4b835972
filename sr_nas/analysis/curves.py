"""Tables 1 and 6, figures 2 to 4 and section 6.6 of SA-DARTS, from the histories of searches.

Gaps of beta and quantities over the epochs are those of any space; replaced operations need NAS-Bench-201's true accuracies.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.console import Console

from sr_nas.analysis.history import Method, SearchRun, Trials, axis_label, labels_of, methods_of, read_run, settled, top2_gaps
from sr_nas.classification.nasbench201 import read_genotype
from sr_nas.classification.nasbench201_table import DATA_SETS, table, true_accuracy
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype
from sr_nas.report import plots
from sr_nas.report.tables import Report, check_output, open_output, write_csv, write_numbers

FIGURES: dict[str, tuple[str, int]] = {
    "overview": (r"gap_worst|share_.+|cifar10_test|macs_lr_1280x720", 3),
    "alpha": (r"alpha_(mean|median|std)", 3),
    "gap": (r"gap_(worst|mean)", 2),
    "share": (r"share_.+", 1),
    "accuracy": (r"\w+_(valid|test|psnr|regret)", 2),
    "size": (r"params|macs_.+", 3),
    "loss": (r"loss_(task|train)", 2),
}
"""Figure -> pattern of its quantities, drawn where they are known, and its number of columns."""
RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
"""The network of NAS-Bench-201 that is a ResNet (Dong & Yang 2020)."""
CONVERGED = 0.8
MAIN, REGRET = "cifar10_test", "regret, cifar10_test"
"""Share of the epochs after which the network of a search that has converged no longer changes."""


def main(args: Namespace) -> int:
    """Run ``analyze gaps``, ``curves``, ``accuracies`` or ``replace``; return the exit code."""
    check_output(args.output)
    match args.what:
        case "gaps":
            report = gaps(methods_of(args.runs, args.epoch), args.edge, args.output)
        case "curves":
            report = curves(methods_of(args.runs, args.epoch), args.edge, args.operation, args.output)
        case "accuracies":
            report = accuracies(methods_of(args.runs, args.epoch), args.output)
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
    rows, printed = zip(*(_gap_row(method, edge) for method in methods), strict=True)
    folder = open_output(output, "gaps")
    write_numbers(folder / "gaps.json", rows)
    by_seed = [
        {key: row[key] for key in ("method", "epoch", "edge")}
        | {"seed": seed, "gap_edge": gap, "gap_worst": worst, "worst_edge": worst_edge}
        for row in rows
        for seed, gap, worst, worst_edge in zip(*(row[k] for k in ("seeds", "gap_edge", "gap_worst", "worst_edges")), strict=True)
    ]
    write_csv(folder / "gaps.csv", by_seed)
    plots.save(_gaps_figure(rows), folder / "gaps.png")
    return Report(folder, printed, [method.note for method in methods if method.note])


def _gap_row(method: Method, edge: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the gaps of a method as numbers and as a row of the printed table."""
    epoch, runs = method.epochs[-1], [top2_gaps(run.history[-1]["beta"], method.choices) for run in method.runs]
    labels = list(runs[0])
    if not labels:
        raise UserError(f"{method.name} has no choice that keeps one operation of several: there is no gap.")
    if edge is not None and edge not in labels:
        raise UserError(f"--edge: {method.name} has no '{edge}'{nearest(edge, labels)} It has: {listing(labels, 30)}.")
    edge = edge or min(labels, key=lambda label: statistics.fmean(run[label] for run in runs))
    numbers = {"method": method.name, "epoch": epoch, "seeds": method.seeds, "edge": edge, "gaps": runs}
    numbers["worst_edges"] = [min(run, key=run.__getitem__) for run in runs]
    printed = {"method": method.name, "seeds": str(len(runs)), "epoch": str(epoch), "edge": edge}
    for name, heading, values in (
        ("gap_edge", "gap there", [run[edge] for run in runs]),
        ("gap_worst", "each seed's worst", [min(run.values()) for run in runs]),
        ("gap_mean", "mean of edges", [statistics.fmean(run.values()) for run in runs]),
    ):
        trials = Trials([epoch], np.array(values)[:, None])
        numbers |= {name: values, f"{name}_mean": float(trials.mean[0]), f"{name}_std": float(trials.std[0])}
        printed[heading] = trials.last(form=".2g", std_form=".1g")
    return numbers | convergence(method), printed | _convergence_texts(method)


def convergence(method: Method) -> dict[str, list[float]]:
    """Return by run ``settled``, the epoch from which its network stays, ``hours_settled`` until its end, ``hours`` in all."""
    ends = [settled(run.history) for run in method.runs]
    times = [np.cumsum([record["seconds"] for record in run.history]) / 3600 for run in method.runs]
    return {
        "settled": [float(end) for end in ends],
        "hours_settled": [float(hours[end]) for end, hours in zip(ends, times, strict=True)],
        "hours": [float(hours[-1]) for hours in times],
    }


def _convergence_texts(method: Method) -> dict[str, str]:
    numbers, last = convergence(method), method.epochs[-1]
    until, hours = (statistics.fmean(numbers[name]) for name in ("hours_settled", "hours"))
    unchanged = Trials([last], np.array(numbers["settled"])[:, None]).last(form=".3g")
    converged = sum(end <= CONVERGED * last for end in numbers["settled"])
    texts = {"converge": f"{converged} of {len(method.runs)}", "unchanged since epoch": unchanged}
    return texts | {"hours, until then / in all": f"{until:.3g} / {hours:.3g}"}


def accuracies(methods: Sequence[Method], output: Path | None) -> Report:
    """Table 6: true accuracies of the networks that methods end with, beside the best of each column and ResNet's; regret.

    Writes ``accuracies.json`` and ``.csv``, which has every seed's.

    Raises:
        UserError: a search is not of NAS-Bench-201.
    """
    names = [f"{dataset}_{part}" for dataset in DATA_SETS for part in ("valid", "test")]
    best = dict(zip(names, table().reshape(-1, len(names)).max(axis=0).tolist(), strict=True))
    known = true_accuracy(read_genotype(RESNET)) or {}
    resnet = {f"{dataset}_{part}": value for dataset, parts in known.items() for part, value in parts.items()}
    rows, by_seed, content = [], [], {"optimal": best, "ResNet": resnet}
    for name, scores in content.items():
        about = dict.fromkeys(("seeds", *_convergence_texts(methods[0])), "-")
        regret = {REGRET: f"{best[MAIN] - scores[MAIN]:.2f}"}
        rows.append({"method": name} | about | {column: f"{scores[column]:.2f}" for column in names} | regret)
    for method in methods:
        scalars = method.quantities()
        if missing := [column for column in names if column not in scalars]:
            raise UserError(f"{method.name} is no search of NAS-Bench-201: {missing[0]} of its networks is not known.")
        about = {"method": method.name, "seeds": str(len(method.runs))} | _convergence_texts(method)
        scalars[REGRET] = Trials(method.epochs, best[MAIN] - scalars[MAIN].values)
        rows.append(about | {column: scalars[column].last(form=".2f", std_form=".2f") for column in (*names, REGRET)})
        ends = {column: scalars[column].values[:, -1].tolist() for column in (*names, REGRET)} | convergence(method)
        content[method.name] = {"seeds": method.seeds} | ends
        by_seed += [
            {"method": method.name, "seed": seed} | {column: values[number] for column, values in ends.items()}
            for number, seed in enumerate(method.seeds)
        ]
    folder = open_output(output, "accuracies")
    write_numbers(folder / "accuracies.json", content)
    write_csv(folder / "accuracies.csv", by_seed)
    return Report(folder, rows, [method.note for method in methods if method.note])


def _gaps_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw every seed's gap by method, on a logarithmic scale, with the mean as a bar; a gap of 0 is drawn at the bottom."""
    figure = plots.new_figure(max(4.5, 1.5 * len(rows) + 1.2), 3.8)
    axes = figure.subplots()
    floor = 0.5 * min((gap for row in rows for gap in row["gap_edge"] if gap > 0), default=1e-3)
    for place, row in enumerate(rows):
        trials, mean = row["gap_edge"], row["gap_edge_mean"]
        offsets = np.linspace(-0.15, 0.15, len(trials)) if len(trials) > 1 else np.zeros(1)
        colour = plots.COLOURS[place % len(plots.COLOURS)]
        axes.scatter(place + offsets, np.maximum(trials, floor), s=28, color=colour, alpha=0.8, zorder=3)
        height = max(mean, floor)
        axes.plot([place - 0.28, place + 0.28], [height, height], color=plots.INK, linewidth=2.0, zorder=4)
        axes.annotate(f"{mean:.2g}", (place + 0.3, height), va="center", fontsize=9, fontweight="bold", color=plots.INK)
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(rows) - 0.2)
    names = [f"{textwrap.fill(row['method'], 18)}\n{row['edge']}, epoch {row['epoch']}" for row in rows]
    axes.set_xticks(range(len(rows)), names)
    plots.style(axes, "top-2 gap of beta by seed, and its mean")
    return figure


def curves(methods: Sequence[Method], edge: str | None, operation: str, output: Path | None) -> Report:
    """Draw methods over their epochs and write the numbers.

    ``beta.png`` has one choice of every method (figures 2 and 4), that of ``edge`` or the first; ``beta_<method>.png`` has all
    choices of operations of one and ``beta_<method>_inputs.png`` those of inputs; ``alpha.png`` is figure 3. Then come the
    figures of :data:`FIGURES`, with the share of ``operation``, ``curves.json`` with means and deviations over seeds, and
    ``curves.csv`` and ``beta.csv`` with every run's own numbers.

    Raises:
        UserError: a method has no such choice, or no method such an operation.
    """
    for method in methods:
        if edge is not None and edge not in method.choices:
            known = listing(method.choices, 40)
            raise UserError(f"--edge: {method.name} has no '{edge}'{nearest(edge, method.choices)} It has: {known}.")
    choices = [method.choices[label] for method in methods for label in labels_of(method.choices)]
    operations = list(dict.fromkeys(name for choice in choices for name in choice.candidates))
    if operation not in ["skip_connect", *operations]:
        raise UserError(f"--operation: no method has '{operation}'{nearest(operation, operations)} Known: {listing(operations)}.")
    scalars = {method.name: method.quantities(operation) for method in methods}
    folder = open_output(output, "curves")
    _write(folder, methods, scalars)
    _draw(folder, methods, scalars, edge)
    rows: list[dict[str, str]] = []
    for method in methods:
        rows.append({"method": method.name, "seeds": str(len(method.runs)), "epoch": str(method.epochs[-1])})
        for name in ("gap_worst", f"share_{operation}", "cifar10_test", "macs_lr_1280x720"):
            if any(name in known for known in scalars.values()):
                title, unit = axis_label(name)
                trials = scalars[method.name].get(name)
                rows[-1][title] = trials.last(unit) if trials else "-"
    return Report(folder, rows, [method.note for method in methods if method.note])


def _write(folder: Path, methods: Sequence[Method], scalars: Mapping[str, Mapping[str, Trials]]) -> None:
    def numbers(trials: Trials) -> dict[str, Any]:
        return {"mean": trials.mean.tolist(), "std": trials.std.tolist()}

    content, rows, betas = {}, [], []
    for method in methods:
        content[method.name] = {
            "runs": [str(run.folder) for run in method.runs],
            "seeds": method.seeds,
            "epochs": method.epochs,
            "quantities": {name: numbers(trials) for name, trials in scalars[method.name].items()},
            "beta": {
                label: {"candidates": list(choice.candidates)} | numbers(method.beta(label))
                for label, choice in method.choices.items()
            },
        }
        for number, run in enumerate(method.runs):
            for place, record in enumerate(run.history):
                epoch = {"method": method.name, "seed": run.options.manual_seed, "epoch": record["epoch"]}
                values = {name: float(trials.values[number, place]) for name, trials in scalars[method.name].items()}
                rows.append(epoch | values)
                betas += [
                    epoch | {"choice": label, "candidate": name, "alpha": alpha, "beta": beta}
                    for label, choice in method.choices.items()
                    for name, alpha, beta in zip(choice.candidates, record["alpha"][label], record["beta"][label], strict=True)
                ]
    write_numbers(folder / "curves.json", content)
    write_csv(folder / "curves.csv", rows)
    write_csv(folder / "beta.csv", betas)


def _draw(folder: Path, methods: Sequence[Method], scalars: Mapping[str, Mapping[str, Trials]], edge: str | None) -> None:
    note = _note(methods)
    names = dict.fromkeys(name for known in scalars.values() for name in known)
    for figure, (pattern, columns) in FIGURES.items():
        panels = {
            name: {method: known[name] for method, known in scalars.items() if name in known}
            for name in names
            if re.fullmatch(pattern, name)
        }
        if panels:
            plots.save(_method_curves(panels, min(columns, len(panels)), note), folder / f"{figure}.png")
    compared = [(method, edge or next(iter(method.choices))) for method in methods]
    betas = {f"{method.name}, {label}": _beta(method, label) for method, label in compared}
    plots.save(plots.beta_figure(betas, note), folder / "beta.png")
    for method in methods:
        stem = f"beta_{re.sub(r'[^A-Za-z0-9._+-]+', '_', method.name)}"
        for labels, ending in ((labels_of(method.choices), ""), (labels_of(method.choices, "inputs"), "_inputs")):
            if labels:
                panel = {label: _beta(method, label) for label in labels}
                plots.save(plots.beta_figure(panel, _note([method])), folder / f"{stem}{ending}.png")


def _beta(method: Method, label: str) -> plots.BetaCurves:
    names, trials = method.choices[label].candidates, method.beta(label)
    return plots.BetaCurves(trials.epochs, names, trials.mean, [names[int(trials.mean[-1].argmax())]], trials.std)


def _note(methods: Sequence[Method]) -> str:
    """Return the heading of a legend, which says what the bands are."""
    counts = sorted({len(method.runs) for method in methods})
    if counts == [1]:
        return "one seed each"
    return f"mean of {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds,\nband: one standard\ndeviation"


def _method_curves(panels: Mapping[str, Mapping[str, Trials]], columns: int, note: str) -> Figure:
    """Draw a panel per quantity, and in each a line per method in a band of one standard deviation."""
    styles = plots.line_styles(dict.fromkeys(name for methods in panels.values() for name in methods))
    figure, grid = plots.panel_grid(len(panels), [*styles, *note.splitlines()], columns)
    for axes, (quantity, methods) in zip(grid, panels.items(), strict=True):
        title, unit = axis_label(quantity)
        for method, trials in methods.items():
            marker = "o" if np.isfinite(trials.mean).sum() == 1 else None
            axes.plot(trials.epochs, trials.mean / unit, **styles[method], linewidth=1.8, marker=marker, markersize=5)
            low, high = trials.mean - trials.std, trials.mean + trials.std
            # A band does not leave the range of its quantity.
            if quantity.startswith(("gap_", "share_")):
                low, high = low.clip(0, 1), high.clip(0, 1)
            elif quantity.endswith(("_valid", "_test")):
                low, high = low.clip(0, 100), high.clip(0, 100)
            axes.fill_between(trials.epochs, low / unit, high / unit, color=styles[method]["color"], alpha=0.15, linewidth=0)
        plots.style_epochs(axes, title)
    plots.add_legend(figure, styles, note)
    return figure


@dataclass(frozen=True)
class Replacement:
    """The candidates of an edge of a searched network, the largest beta first.

    ``betas`` has the beta of every operation in the last epoch; ``accuracies`` has, by data set, the network's true test
    accuracies with each of these operations, in percent.
    """

    betas: dict[str, float]
    accuracies: dict[str, list[float]]

    def in_order(self, dataset: str) -> tuple[int, int]:
        """Return the number of pairs of operations that beta and accuracy order alike, and the number of all pairs."""
        pairs = list(combinations(self.accuracies[dataset], 2))
        return sum(first > second for first, second in pairs), len(pairs)


def replacement(genotype: Genotype, betas: dict[str, float], label: str) -> Replacement:
    """Replace the operation of one edge by each of its candidates.

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
    labels = labels_of(run.choices) if labels == ["all"] else list(dict.fromkeys(labels)) or [next(iter(run.choices))]
    last = run.history[-1]
    genotype = Genotype.from_json(last["genotype"])
    edges = {}
    for label in labels:
        candidates = run.choices[label].candidates if label in run.choices else ()
        edges[label] = replacement(genotype, dict(zip(candidates, last["beta"].get(label, ()), strict=True)), label)
    folder = open_output(output, "replace")
    content, notes, rows, printed = {}, [], [], []
    for label, edge in edges.items():
        content[label] = {"operations": list(edge.betas), "beta": list(edge.betas.values()), "test": edge.accuracies}
        content[label]["pairs_in_order"] = {dataset: edge.in_order(dataset) for dataset in DATA_SETS}
        counts = ", ".join("{} {} of {}".format(dataset, *edge.in_order(dataset)) for dataset in DATA_SETS)
        notes.append(f"{label}: pairs of operations that beta and accuracy order alike: {counts}.")
        for place, (operation, beta) in enumerate(edge.betas.items()):
            tests = {dataset: edge.accuracies[dataset][place] for dataset in DATA_SETS}
            about = {"edge": label, "operation": operation}
            rows.append(about | {"beta": beta} | {f"{dataset}_test": value for dataset, value in tests.items()})
            texts = {f"{dataset} test": f"{value:.2f}" for dataset, value in tests.items()}
            printed.append(about | {"beta": f"{beta:.4f}"} | texts)
    source = {"run": str(run.folder), "epoch": last["epoch"], "genotype": genotype.to_json()}
    write_numbers(folder / "replace.json", source | {"edges": content})
    write_csv(folder / "replace.csv", rows)
    plots.save(_replacement_figure(edges), folder / "replace.png")
    return Report(folder, printed, notes)


def _replacement_figure(edges: Mapping[str, Replacement]) -> Figure:
    """Draw true accuracies over an edge's operations in decreasing order of beta: a row per edge, a column per data set."""
    figure = plots.new_figure(4.0 * len(DATA_SETS) + 0.3, 3.1 * len(edges) + 0.3)
    grid = figure.subplots(len(edges), len(DATA_SETS), sharey="col", squeeze=False)
    outline = [withStroke(linewidth=3, foreground="white")]
    for row, (label, edge) in zip(grid, edges.items(), strict=True):
        places = range(len(edge.betas))
        ticks = [f"{operation}\n{beta:.3f}" for operation, beta in edge.betas.items()]
        for column, (axes, name) in enumerate(zip(row, DATA_SETS, strict=True)):
            axes.plot(places, edge.accuracies[name], color=plots.FAINT, linewidth=1.2, zorder=2)
            axes.scatter(places, edge.accuracies[name], s=36, color=plots.COLOURS[column], zorder=3)
            for place, value in enumerate(edge.accuracies[name]):
                text = axes.annotate(f"{value:.2f}", (place, value), (0, 7), textcoords="offset points", ha="center", zorder=4)
                text.set(fontsize=9, color=plots.INK, path_effects=outline)
            axes.set_xticks(places, ticks, rotation=35, ha="right")
            axes.margins(x=0.12, y=0.2)
            plots.style(axes, f"{label}: {name} test, %")
    return figure
