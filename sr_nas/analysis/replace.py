"""Section 6.6 of SA-DARTS: whether beta orders the operations of an edge as their true accuracies do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from sr_nas.analysis.figures import replacement_figure
from sr_nas.analysis.history import open_output, write_csv, write_numbers
from sr_nas.analysis.methods import SearchRun
from sr_nas.classification.nasbench201_table import DATA_SETS, true_accuracy
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Genotype
from sr_nas.report.plots import save


@dataclass(frozen=True)
class Replacement:
    """What an edge could hold, the largest beta first.

    Attributes:
        operations: names.
        betas: of each.
        accuracies: data set -> true test accuracy of the searched network with each of them, in percent.
    """

    operations: list[str]
    betas: list[float]
    accuracies: dict[str, list[float]]

    def in_order(self, data: str) -> tuple[int, int]:
        """Return how many pairs of operations beta and accuracy order alike, and how many pairs there are."""
        pairs = list(combinations(self.accuracies[data], 2))
        return sum(first > second for first, second in pairs), len(pairs)


def replacements(genotype: Genotype, beta: Mapping[str, Sequence[float]], candidates: Sequence[str], label: str) -> Replacement:
    """Replace the operation of one edge by each of its candidates.

    Args:
        genotype: the searched network.
        beta: of the search's last epoch.
        candidates: of that edge, in the order of its beta.
        label: the edge.

    Raises:
        UserError: the network is none of NAS-Bench-201, or has no such edge.
    """
    if true_accuracy(genotype) is None:
        raise UserError(f"true accuracies are known in NAS-Bench-201 alone, and {genotype.arch} is another space.")
    labels = [name for name, _ in genotype.picks]
    if label not in labels:
        raise UserError(f"--edge: there is no '{label}'{nearest(label, labels)} There are: {listing(labels)}.")
    order = sorted(zip(candidates, beta[label], strict=True), key=lambda pair: -pair[1])
    found: dict[str, list[float]] = {data: [] for data in DATA_SETS}
    for operation, _ in order:
        replaced = tuple((name, (operation,) if name == label else names) for name, names in genotype.picks)
        truth = true_accuracy(Genotype(genotype.arch, replaced))
        assert truth is not None
        for data in DATA_SETS:
            found[data].append(truth[data]["test"])
    return Replacement([name for name, _ in order], [value for _, value in order], found)


def replace_in(run: SearchRun, labels: Sequence[str], output: Path | None) -> tuple[Path, dict[str, Replacement]]:
    """Replace at each of the edges, write ``replace.json``, ``replace.csv`` and ``replace.png``, and return their folder."""
    last = run.history[-1]
    genotype = Genotype.from_json(last["genotype"])
    known = {label: choice.candidates for label, choice in run.choices.items()}
    found = {label: replacements(genotype, last["beta"], known.get(label, ()), label) for label in labels}
    folder = open_output(output, "replace")
    content = {
        label: {
            "operations": edge.operations,
            "beta": edge.betas,
            "test": edge.accuracies,
            "pairs_in_order": {data: list(edge.in_order(data)) for data in DATA_SETS},
        }
        for label, edge in found.items()
    }
    write_numbers(
        folder / "replace.json",
        {"run": str(run.folder), "epoch": last["epoch"], "genotype": genotype.to_json(), "edges": content},
    )
    rows = [
        [label, operation, beta, *(edge.accuracies[data][place] for data in DATA_SETS)]
        for label, edge in found.items()
        for place, (operation, beta) in enumerate(zip(edge.operations, edge.betas, strict=True))
    ]
    write_csv(folder / "replace.csv", ["edge", "operation", "beta", *(f"{data}_test" for data in DATA_SETS)], rows)
    edges = {label: list(zip(edge.operations, edge.betas, strict=True)) for label, edge in found.items()}
    figure = replacement_figure(edges, {label: edge.accuracies for label, edge in found.items()})
    save(figure, folder / "replace.png")
    return folder, found
