"""Section 6.6 of SA-DARTS: whether beta orders the operations of an edge as their true accuracies do (NAS-Bench-201)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sr_nas.analysis.figures import replacement_figure
from sr_nas.analysis.methods import SearchRun
from sr_nas.analysis.tables import Report, open_output, write_csv, write_numbers
from sr_nas.classification.nasbench201_table import DATA_SETS, true_accuracy
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype
from sr_nas.report.plots import save


@dataclass(frozen=True)
class Replacement:
    """The candidates of an edge, the largest beta first.

    Attributes:
        operations: names of the candidates.
        betas: their betas in the search's last epoch.
        accuracies: data set -> true test accuracy of the searched network with each of them, in percent.
    """

    operations: list[str]
    betas: list[float]
    accuracies: dict[str, list[float]]

    def in_order(self, dataset: str) -> tuple[int, int]:
        """Return the number of pairs of operations that beta and accuracy order alike, and the number of all pairs."""
        pairs = list(combinations(self.accuracies[dataset], 2))
        return sum(first > second for first, second in pairs), len(pairs)


def replacements(genotype: Genotype, beta: Mapping[str, Sequence[float]], candidates: Sequence[str], label: str) -> Replacement:
    """Replace the operation of one edge by each of its candidates.

    Args:
        genotype: the searched network.
        beta: label -> betas of the search's last epoch.
        candidates: of that edge, in the order of its beta.
        label: the edge.

    Raises:
        UserError: the network is not one of NAS-Bench-201, or has no such edge.
    """
    if true_accuracy(genotype) is None:
        raise UserError(f"true accuracies are known in NAS-Bench-201 alone, and {genotype.arch} is another space.")
    labels = [name for name, _ in genotype.picks]
    if label not in labels:
        raise UserError(f"--edge: there is no '{label}'{nearest(label, labels)} There are: {listing(labels)}.")
    order = sorted(zip(candidates, beta[label], strict=True), key=lambda pair: -pair[1])
    accuracies: dict[str, list[float]] = {dataset: [] for dataset in DATA_SETS}
    for operation, _ in order:
        picks = tuple((name, (operation,) if name == label else names) for name, names in genotype.picks)
        truth = true_accuracy(Genotype(genotype.arch, picks)) or {}
        for dataset in DATA_SETS:
            accuracies[dataset].append(truth[dataset]["test"])
    return Replacement([name for name, _ in order], [value for _, value in order], accuracies)


def replace(run: SearchRun, labels: Sequence[str], output: Path | None) -> Report:
    """Replace at each of these edges and write ``replace.json``, ``replace.csv`` and ``replace.png``.

    Args:
        run: a search in NAS-Bench-201.
        labels: edges; ``["all"]`` for all, none for the first.
        output: folder, by default a new one.

    Raises:
        UserError: as :func:`replacements`.
    """
    labels = list(run.choices) if labels == ["all"] else list(dict.fromkeys(labels)) or [next(iter(run.choices))]
    last = run.history[-1]
    genotype = Genotype.from_json(last["genotype"])
    candidates = {label: choice.candidates for label, choice in run.choices.items()}
    edges = {label: replacements(genotype, last["beta"], candidates.get(label, ()), label) for label in labels}
    folder = open_output(output, "replace")
    content = {
        label: {"operations": edge.operations, "beta": edge.betas, "test": edge.accuracies}
        | {"pairs_in_order": {dataset: list(edge.in_order(dataset)) for dataset in DATA_SETS}}
        for label, edge in edges.items()
    }
    about = {"run": str(run.folder), "epoch": last["epoch"], "genotype": genotype.to_json()}
    write_numbers(folder / "replace.json", about | {"edges": content})
    rows: list[dict[str, Any]] = [
        {"edge": label, "operation": operation, "beta": edge.betas[place]}
        | {f"{dataset}_test": edge.accuracies[dataset][place] for dataset in DATA_SETS}
        for label, edge in edges.items()
        for place, operation in enumerate(edge.operations)
    ]
    write_csv(folder / "replace.csv", rows)
    orders = {label: list(zip(edge.operations, edge.betas, strict=True)) for label, edge in edges.items()}
    save(replacement_figure(orders, {label: edge.accuracies for label, edge in edges.items()}), folder / "replace.png")
    notes = []
    for label, edge in edges.items():
        counts = ", ".join("{} {} of {}".format(dataset, *edge.in_order(dataset)) for dataset in DATA_SETS)
        notes.append(f"{label}: pairs of operations that beta and accuracy order alike: {counts}.")
    formats = {"beta": ".4f"} | {f"{dataset}_test": ".2f" for dataset in DATA_SETS}
    cells = [{key.replace("_", " "): format(value, formats.get(key, "")) for key, value in row.items()} for row in rows]
    return Report(folder, cells, notes)
