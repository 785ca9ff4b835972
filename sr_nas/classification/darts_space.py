"""The labelled edges of the DARTS space, and which operations may stand on each."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from sr_nas.classification.darts import (
    DARTS,
    FIRST_NODE,
    KINDS,
    READS,
    Cells,
    Channels,
    Classes,
    DARTSFrame,
    Multiplier,
    Nodes,
    Stem,
    StemMultiplier,
    check_multiplier,
    edge_key,
    edges,
    operation_and_source,
    pick,
)
from sr_nas.classification.darts_operations import DARTS_CANDIDATES, DARTS_OPERATIONS
from sr_nas.classification.mixed import CellMixedOp
from sr_nas.contracts import CostSite, Weights
from sr_nas.errors import listing, nearest
from sr_nas.genotype import Choice, Genotype
from sr_nas.ops.mixed import PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import CLASSIFICATION_SPACES

Candidates = Annotated[
    list[str] | dict[str, list[str]] | None,
    Field(description="operations to choose from on every edge, or a mapping label -> operations that names every edge"),
]


def edge_label(kind: str, node: int, source: int) -> str:
    """Label of the choice of an operation."""
    return f"{kind}{node}<-{source}"


def edge_labels(nodes: int) -> list[str]:
    """Labels of all edges, in order."""
    return [edge_label(kind, *edge) for kind in KINDS for edge in edges(nodes)]


def inputs_label(kind: str, node: int) -> str:
    """Label of the choice of a node's edges, where there is edge normalisation."""
    return f"{kind}{node}_edges"


def edge_choices(candidates: list[str] | dict[str, list[str]] | None, nodes: int) -> dict[str, Choice]:
    """Return label -> choice of an operation.

    Args:
        candidates: operations of all edges; or label -> operations, for every edge; ``None`` for the eight of the paper.
        nodes: nodes of a cell.

    Raises:
        ValueError: an unknown operation, fewer than two on an edge, an edge without any or one that does not exist.
    """
    labels = edge_labels(nodes)
    if not isinstance(candidates, dict):
        check_candidates(DARTS_CANDIDATES, candidates)
        return dict.fromkeys(labels, Choice(tuple(candidates or DARTS_OPERATIONS)))
    for label, names in candidates.items():
        if label not in labels:
            raise ValueError(f"candidates: there is no edge '{label}'{nearest(label, labels)} Known: {listing(labels)}.")
        check_candidates(DARTS_CANDIDATES, names)
    missing = [label for label in labels if label not in candidates]
    if missing:
        raise ValueError(f"candidates names no operations for {listing(missing)}")
    return {label: Choice(tuple(candidates[label])) for label in labels}


# MERGED sr_nas.classification.darts_space: The DARTS search space (Liu et al. 2019): every edge of a normal and a reduction
# cell chooses an operation.
#
# Its reduced spaces S1 to S4 (Zela et al. 2020) are lists of candidates, of all edges or of each. Labels are
# ``normal2<-0``: node 2 of a normal cell reads the cell before last. Nodes keep two edges, which is the
# network's own choice
# (:mod:`sr_nas.classification.darts`).


EdgeNormalization = Annotated[
    bool, Field(description="edges into a node have weights of their own (PC-DARTS), which decide with beta which edges are kept")
]


@CLASSIFICATION_SPACES.register("DARTS")
class DARTSSpace(DARTSFrame):
    """DARTS supernet. With the eight operations it holds about 10^18 networks.

    Args:
        stem: ``"cifar"`` or ``"imagenet"``.
        channels: C, of the first cells.
        num_cells: number of cells; all of one kind share their alpha.
        num_classes: number of logits.
        candidates: operations of all edges; or label -> operations, for every edge; ``None`` for the eight of the paper.
        partial_channel: K of the mixed operation; must divide ``channels``.
        edge_normalization: whether nodes weigh their edges.
        nodes: nodes of a cell.
        multiplier: how many nodes, the last, are a cell's output.
        stem_multiplier: channels of the CIFAR stem, in C.

    Raises:
        ValueError: an unknown candidate, fewer than two, an edge without any or one that does not exist, a K that does not
            divide ``channels``, or more nodes joined than there are.
    """

    arch = DARTS.arch

    def __init__(
        self,
        stem: Stem = "cifar",
        channels: Channels = 16,
        num_cells: Cells = 8,
        num_classes: Classes = 10,
        candidates: Candidates = None,
        partial_channel: PartialChannel = 1,
        edge_normalization: EdgeNormalization = False,
        nodes: Nodes = 4,
        multiplier: Multiplier = 4,
        stem_multiplier: StemMultiplier = 3,
    ) -> None:
        self.check(channels, candidates, partial_channel, nodes, multiplier)
        self.edge_normalization = edge_normalization
        self.operations = edge_choices(candidates, nodes)

        def build_edge(kind: str, node: int, source: int, width: int, stride: int) -> nn.Module:
            names = self.operations[edge_label(kind, node, source)].candidates
            builders = {name: DARTS_CANDIDATES.get(name) for name in names}
            return CellMixedOp(builders, width, stride, partial_channel=partial_channel)

        super().__init__(stem, channels, num_cells, num_classes, nodes, multiplier, stem_multiplier, False, build_edge)

    @staticmethod
    def check(
        channels: int = 16,
        candidates: Candidates = None,
        partial_channel: int = 1,
        nodes: int = 4,
        multiplier: int = 4,
        **_: Any,
    ) -> None:
        """Refuse combinations that no type excludes."""
        check_multiplier(nodes, multiplier)
        if channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide channels = {channels}")
        edge_choices(candidates, nodes)

    def choices(self) -> dict[str, Choice]:
        """``normal2<-0`` and on: one operation each; with edge normalisation ``normal2_edges`` and on: two inputs each."""
        if not self.edge_normalization:
            return self.operations
        return self.operations | {
            inputs_label(kind, node): Choice(tuple(map(str, range(node))), READS, "inputs")
            for kind in KINDS
            for node in range(FIRST_NODE, FIRST_NODE + self.nodes)
        }

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Map ``[N, 3, H, W]`` to logits ``[N, num_classes]`` with the given candidate weights per label."""
        return self.classify(x, partial(self._run_edge, weights))[0]

    def _run_edge(self, weights: Weights, kind: str, node: int, source: int, module: nn.Module, x: Tensor) -> Tensor:
        mixed = module(x, weights[edge_label(kind, node, source)])
        return weights[inputs_label(kind, node)][source] * mixed if self.edge_normalization else mixed

    def decode(self, weights: Weights) -> Genotype:
        """Keep the two edges of every node whose strongest operation other than none is heaviest, with that operation.

        An operation weighs its weight, times that of its edge where there is edge normalisation (DARTS, section 2.4;
        PC-DARTS, section 3.3). Ties go to the first.
        """
        picks = []
        for kind in KINDS:
            for node in range(FIRST_NODE, FIRST_NODE + self.nodes):
                strongest = [self._strongest(weights, kind, node, source) for source in range(node)]
                order = sorted(strongest, key=lambda found: -found[0])[:READS]
                picks.append((f"{kind}{node}", tuple(name for _, name in order)))
        return Genotype(self.arch, tuple(picks))

    def _strongest(self, weights: Weights, kind: str, node: int, source: int) -> tuple[float, str]:
        label = edge_label(kind, node, source)
        own = weights[label].detach()
        if self.edge_normalization:
            own = own * weights[inputs_label(kind, node)].detach()[source]
        allowed = zip(own.tolist(), self.operations[label].candidates, strict=True)
        weight, operation = max((found for found in allowed if found[1] != "none"), key=lambda found: found[0])
        return weight, pick(operation, source)

    def derive(self, genotype: Genotype) -> DARTS:
        """Build the plain network of a genotype, in the supernet's own size and without an auxiliary head."""
        return DARTS(**self.frame_settings(), genotype=genotype)  # type: ignore[arg-type]

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not.

        Scales and shifts of the cells' BatchNorms, which the supernet has not, are absent: 1 and 0, as they are built, give
        what the supernet computes. Poolings lose their BatchNorm.
        """
        chosen = {}
        for index, kind in enumerate(self.kinds()):
            for node in range(FIRST_NODE, FIRST_NODE + self.nodes):
                for operation, source in map(operation_and_source, genotype[f"{kind}{node}"]):
                    edge = f"cells.{index}.edges.{edge_key(node, source)}."
                    chosen[f"{edge}candidates.{operation}."] = edge
        return inherited_tensors(self, self.derive(genotype), chosen)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each edge's operation, in every cell of its kind; labels of edges none of whose operations cost anything, and of
        inputs, are absent.
        """
        sites = {}
        sites_of = cache(self._edge_sites)  # the same objects for all edges of one stride, so that each is measured once
        for kind, node, source in ((kind, *edge) for kind in KINDS for edge in edges(self.nodes)):
            label, own = edge_label(kind, node, source), sites_of(kind, min(source, 2))
            if any(next(own[0].build(name).parameters(), None) is not None for name in self.operations[label].candidates):
                sites[label] = own
        return sites

    def _edge_sites(self, kind: str, source: int) -> tuple[CostSite, ...]:
        downscale, found = 8 if self.stem_type == "imagenet" else 1, Counter[tuple[int, int, int]]()
        for cell in self._cells():
            stride = cell.stride(source)
            downscale *= 2 if cell.kind == "reduce" else 1
            if cell.kind == kind:
                found[cell.channels, stride, downscale // stride] += 1
        return tuple(
            CostSite(partial(self._candidate, width, stride), width, smaller, count)
            for (width, stride, smaller), count in found.items()
        )

    @staticmethod
    def _candidate(width: int, stride: int, name: str) -> Any:
        return DARTS_CANDIDATES.get(name)(width, stride, True)
