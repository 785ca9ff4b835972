"""Section 6.6 of SA-DARTS: whether beta orders the operations of an edge as their true accuracies do (NAS-Bench-201)."""

from __future__ import annotations

from collections.abc import Sequence
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
