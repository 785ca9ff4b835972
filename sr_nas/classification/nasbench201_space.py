"""The search space of NAS-Bench-201: 6 labelled choices of 5 candidates, shared by all cells (Dong & Yang 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from sr_nas.classification.mixed import mixed_apart, mixed_together
from sr_nas.classification.nasbench201 import (
    EDGES,
    NASBENCH201_CANDIDATES,
    NASBENCH201_OPERATIONS,
    NODES,
    STAGES,
    Cell,
    Cells,
    Channels,
    NASBench201,
    NASBench201Frame,
)
from sr_nas.contracts import CostSite, Weights, keep_strongest
from sr_nas.genotype import Choice, Genotype
from sr_nas.ops.fused import Execution
from sr_nas.ops.mixed import MixedOp, PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import CLASSIFICATION_SPACES

INPUTS, NODE = "inputs", "node"


def _inputs() -> dict[str, Choice]:
    """The nodes with several edges into them: all are kept."""
    sources = {node: tuple(f"{NODE}{source}" for source in range(node)) for node in range(2, NODES)}
    return {f"{INPUTS}{node}": Choice(names, len(names), of="inputs") for node, names in sources.items()}


@CLASSIFICATION_SPACES.register("NASBench201")
class NASBench201Space(NASBench201Frame):
    """NAS-Bench-201 supernet: 5^6 = 15,625 networks, whose true accuracies are known.

    Args:
        num_classes: number of classes.
        channels: of the first stage.
        num_cells: cells of each stage; all share one alpha per edge.
        candidates: names to choose from on every edge; ``None`` for the benchmark's five.
        partial_channel: K of the mixed operation; must divide the channels.
        edge_normalization: also weigh the edges into a node, by choices of inputs that keep all (eq. 20 of SA-DARTS).
        affine: whether the candidates' BatchNorms have weights; without them alpha alone scales a candidate (DARTS).
        execution: how mixed operations run: candidates one at a time, or all that read a node together, which is faster.

    Raises:
        ValueError: an unknown candidate, fewer than two, or a K that does not divide the channels.
    """

    arch = NASBench201.arch

    def __init__(
        self,
        num_classes: int = 10,
        channels: Channels = 16,
        num_cells: Cells = 5,
        candidates: list[str] | None = None,
        partial_channel: PartialChannel = 1,
        edge_normalization: bool = False,
        affine: bool = False,
        execution: Execution = "fused",
    ) -> None:
        self.check(channels=channels, candidates=candidates, partial_channel=partial_channel)
        self.candidates = tuple(candidates or NASBENCH201_OPERATIONS)
        builders = {name: partial(NASBENCH201_CANDIDATES.get(name), affine=affine) for name in self.candidates}
        super().__init__(
            num_classes, channels, num_cells, lambda _, width: MixedOp(builders, width, width, partial_channel), affine
        )
        self.edge_normalization = edge_normalization
        self.mix = mixed_together if execution == "fused" else mixed_apart

    @staticmethod
    def check(channels: int = 16, candidates: list[str] | None = None, partial_channel: int = 1, **_: Any) -> None:
        """Refuse combinations that no type excludes."""
        if channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide channels = {channels}")
        check_candidates(NASBENCH201_CANDIDATES, candidates)

    def choices(self) -> dict[str, Choice]:
        """One operation for each of the six edges; with edge normalisation also a weight for each of several into a node."""
        operations = {label: Choice(self.candidates) for label in EDGES}
        return operations | (_inputs() if self.edge_normalization else {})

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Classify ``[N, 3, H, W]``, normalised, with the given candidate weights per label."""
        edges = {}
        for node, choice in _inputs().items() if self.edge_normalization else ():
            for place, source in enumerate(choice.candidates):
                edges[f"{node.removeprefix(INPUTS)}<-{source.removeprefix(NODE)}"] = weights[node][place]

        def leave(cell: Cell, labels: Sequence[str], features: Tensor) -> list[Tensor]:
            ops: Any = [cell.edges[label] for label in labels]
            carried = self.mix(ops, [weights[label] for label in labels], features)
            return [edges[label] * term if label in edges else term for label, term in zip(labels, carried, strict=True)]

        return self.classify(x, lambda cell, features: cell.run(features, partial(leave, cell)))

    def decode(self, weights: Weights) -> Genotype:
        """Keep the heaviest candidate of every edge; a network of this space has all edges, whatever they weigh."""
        return keep_strongest(self.arch, {label: Choice(self.candidates) for label in EDGES}, weights)

    def derive(self, genotype: Genotype) -> NASBench201:
        """Build the plain network of a genotype."""
        return NASBench201(self.num_classes, self.channels, self.num_cells, genotype)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not."""
        chosen = {f"edges.{label}.candidates.{genotype[label][0]}.": f"edges.{label}." for label in EDGES}
        return inherited_tensors(self, self.derive(genotype), chosen)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each edge's candidate once per cell, in every stage."""
        sites = tuple(
            CostSite(partial(self._candidate, width), width, 2**stage, self.num_cells)
            for stage, width in zip(range(STAGES), self.widths(self.channels), strict=True)
        )
        return dict.fromkeys(EDGES, sites)

    @staticmethod
    def _candidate(width: int, name: str) -> Any:
        return NASBENCH201_CANDIDATES.get(name)(width, width)
