"""The DARTS supernet (Liu et al. 2019), whose every edge chooses an operation.

The reduced spaces S1 to S4 (Zela et al. 2020) are lists of candidates, of all edges or of each. A label such as ``normal2<-0``
means: node 2 of a normal cell reads the cell before last. Which two edges a node keeps, :meth:`DARTSSpace.decode` decides.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, partial

from torch import Tensor, nn

from sr_nas.classification.darts import DARTS, AtLeast1, AtLeast2, AtLeast3, DARTSFrame, Stem, check_multiplier
from sr_nas.classification.darts_operations import (
    ARCH,
    DARTS_CANDIDATES,
    DARTS_OPERATIONS,
    FIRST_NODE,
    KINDS,
    READS,
    drop_path,
    edges,
    node_range,
    operation_and_source,
    pick,
)
from sr_nas.classification.mixed import CellMixedOp
from sr_nas.contracts import CostSite, Diagram, Weights
from sr_nas.errors import listing, nearest
from sr_nas.genotype import Choice, Genotype
from sr_nas.ops.mixed import PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import CLASSIFICATION_SPACES

Candidates = list[str] | dict[str, list[str]] | None


def edge_label(kind: str, node: int, source: int) -> str:
    """Label of the choice of an operation."""
    return f"{kind}{node}<-{source}"


def inputs_label(kind: str, node: int) -> str:
    """Label of the choice of a node's edges, where there is edge normalisation."""
    return f"{kind}{node}_edges"


def edge_choices(candidates: Candidates, nodes: int) -> dict[str, Choice]:
    """Return label -> choice of an operation; arguments and errors are those of :class:`DARTSSpace`."""
    labels = [edge_label(kind, *edge) for kind in KINDS for edge in edges(nodes)]
    if not isinstance(candidates, dict):
        check_candidates(DARTS_CANDIDATES, candidates)
        return dict.fromkeys(labels, Choice(tuple(candidates or DARTS_OPERATIONS)))
    for label, names in candidates.items():
        if label not in labels:
            raise ValueError(f"candidates: there is no edge '{label}'{nearest(label, labels)} Known: {listing(labels)}.")
        check_candidates(DARTS_CANDIDATES, names)
    if missing := [label for label in labels if label not in candidates]:
        raise ValueError(f"candidates names no operations for {listing(missing)}")
    return {label: Choice(tuple(candidates[label])) for label in labels}


@CLASSIFICATION_SPACES.register("DARTS")
class DARTSSpace(DARTSFrame):
    """DARTS supernet. With the eight operations it holds about 10^18 networks.

    Args:
        stem: what stands in front of the cells: one convolution (``cifar``), or three of stride 2 (``imagenet``).
        channels: C, channels of the first cells; 16 in the paper.
        num_cells: number of cells, two of which reduce; 8 in the paper. All of one kind share their alpha.
        num_classes: number of classes.
        candidates: operations of all edges; or label -> operations, for every edge; ``None`` for the eight of the paper.
        partial_channel: K of the mixed operation; must divide ``channels``.
        edge_normalization: edges into a node have weights of their own (PC-DARTS), which decide with beta which edges are kept.
        auxiliary_skip: build a skip connection beside every mixed operation (DARTS-), which ``search.over_epochs`` weighs.
        nodes: nodes of a cell; 4 in the paper.
        multiplier: how many nodes, the last, are joined as a cell's output; 4 in the paper.
        stem_multiplier: channels of the CIFAR stem, in C; 3 in the paper.

    Attributes:
        auxiliary_skip: weight of the skip connections; ``None`` where there are none.
        drop_path: probability that an edge is left out for a sample in training mode.
    """

    arch = ARCH
    affine = False
    never_kept = ("none",)
    drop_path: float = 0.0

    def __init__(
        self,
        stem: Stem = "cifar",
        channels: AtLeast2 = 16,
        num_cells: AtLeast3 = 8,
        num_classes: AtLeast2 = 10,
        candidates: Candidates = None,
        partial_channel: PartialChannel = 1,
        edge_normalization: bool = False,
        auxiliary_skip: bool = False,
        nodes: AtLeast1 = 4,
        multiplier: AtLeast1 = 4,
        stem_multiplier: AtLeast1 = 3,
    ) -> None:
        self.auxiliary_skip: float | None = 0.0 if auxiliary_skip else None
        self.check(channels, candidates, partial_channel, nodes, multiplier)
        self.edge_normalization, self.partial_channel = edge_normalization, partial_channel
        self.operations = edge_choices(candidates, nodes)
        super().__init__(stem, channels, num_cells, num_classes, nodes, multiplier, stem_multiplier)

    def build_edge(self, kind: str, node: int, source: int, channels: int, stride: int) -> nn.Module:
        names = self.operations[edge_label(kind, node, source)].candidates
        op = CellMixedOp({name: DARTS_CANDIDATES.get(name) for name in names}, channels, stride, self.partial_channel)
        if self.auxiliary_skip is not None:
            op.auxiliary = DARTS_CANDIDATES.get("skip_connect")(channels, stride, False)
        return op

    @property
    def skip_dropout(self) -> float:
        """Probability that a number in the output of a candidate identity is 0 in training mode (P-DARTS, Chen et al. 2019)."""
        return max((module.p for module in self.modules() if isinstance(module, nn.Dropout)), default=0.0)

    @skip_dropout.setter
    def skip_dropout(self, probability: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability

    @staticmethod
    def check(
        channels: int, candidates: Candidates, partial_channel: int, nodes: int = 4, multiplier: int = 4, **_: object
    ) -> None:
        """Raise ValueError for options that no type excludes."""
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
            for node in node_range(self.nodes)
        }

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Map ``[N, 3, H, W]`` to logits ``[N, num_classes]`` with the given candidate weights per label."""
        return self.classify(x, partial(self._run_edge, weights))[0]

    def _run_edge(self, weights: Weights, kind: str, node: int, source: int, module: nn.Module, x: Tensor) -> Tensor:
        mixed = module(x, weights[edge_label(kind, node, source)])
        if self.auxiliary_skip:
            mixed = mixed + self.auxiliary_skip * module.auxiliary(x)  # type: ignore[operator]
        if self.training:
            mixed = drop_path(mixed, self.drop_path)
        return weights[inputs_label(kind, node)][source] * mixed if self.edge_normalization else mixed

    def decode(self, weights: Weights) -> Genotype:
        """Keep the two edges of every node whose strongest operation other than none is heaviest, with that operation.

        An operation weighs its weight, times that of its edge where there is edge normalisation (DARTS, section 2.4;
        PC-DARTS, section 3.3). Ties go to the first. An edge whose operations all weigh 0 is none.
        """
        picks = []
        for kind in KINDS:
            for node in node_range(self.nodes):
                strongest = [self._strongest(weights, kind, node, source) for source in range(node)]
                heaviest = sorted(strongest, key=lambda pair: -pair[0])[:READS]
                picks.append((f"{kind}{node}", tuple(name for _, name in heaviest)))
        return Genotype(self.arch, tuple(picks))

    def groups(self) -> dict[str, tuple[list[str], int]]:
        """Node -> labels of its edges, and how many it keeps; none where edges have weights of their own, which decide."""
        kinds = [] if self.edge_normalization else KINDS
        nodes = [(kind, node) for kind in kinds for node in node_range(self.nodes)]
        return {f"{kind}{node}": ([edge_label(kind, node, source) for source in range(node)], READS) for kind, node in nodes}

    def _strongest(self, weights: Weights, kind: str, node: int, source: int) -> tuple[float, str]:
        """Weight and pick of an edge's heaviest operation."""
        label = edge_label(kind, node, source)
        values = weights[label].detach()
        if self.edge_normalization:
            values = values * weights[inputs_label(kind, node)].detach()[source]
        pairs = zip(values.tolist(), self.operations[label].candidates, strict=True)
        weight, operation = max((pair for pair in pairs if pair[1] != "none"), key=lambda pair: pair[0])
        return weight, pick(operation if weight else "none", source)

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """The cell of each kind: the edges that a genotype keeps, or all where it names an operation by the label of each."""
        if edge_label(KINDS[0], FIRST_NODE, 0) not in dict(genotype.picks):
            return super().drawing(genotype)
        names = [
            (f"{kind}{node}", tuple(pick(genotype[edge_label(kind, node, source)][0], source) for source in range(node)))
            for kind in KINDS
            for node in node_range(self.nodes)
        ]
        return super().drawing(Genotype(self.arch, tuple(names)))

    def derive(self, genotype: Genotype) -> DARTS:
        """Build the plain network of a genotype, in the supernet's size and without an auxiliary head."""
        return DARTS(**self.frame_settings(), genotype=genotype)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not.

        Scales and shifts of the cells' BatchNorms, which the supernet lacks, are absent: their initial 1 and 0 give what the
        supernet computes. Poolings lose their BatchNorm.
        """
        names = {}
        for index, cell in enumerate(self.cells):
            for node in node_range(self.nodes):
                for operation, source in map(operation_and_source, genotype[f"{cell.kind}{node}"]):
                    edge = f"cells.{index}.edges.{node}_{source}."
                    names[f"{edge}candidates.{operation}."] = edge
        return inherited_tensors(self, self.derive(genotype), names)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each edge's operation, in every cell of its kind; inputs, and edges whose operations have no parameters, are absent."""
        # Edges of one stride get the same objects, so that each cost is measured once.
        sites_of, sites = cache(self._sites), {}
        for kind in KINDS:
            for node, source in edges(self.nodes):
                label, places = edge_label(kind, node, source), sites_of(kind, min(source, FIRST_NODE))
                if any(list(places[0].build(name).parameters()) for name in self.operations[label].candidates):
                    sites[label] = places
        return sites

    def _sites(self, kind: str, source: int) -> tuple[CostSite, ...]:
        downscale, counts = 8 if self.stem_type == "imagenet" else 1, Counter[tuple[int, int, int]]()
        for cell in self.cells:
            stride = cell.stride(source)  # type: ignore[operator]
            downscale *= 2 if cell.kind == "reduce" else 1
            if cell.kind == kind:
                counts[cell.channels, stride, downscale // stride] += 1  # type: ignore[index]
        return tuple(
            CostSite(partial(_candidate, width, stride), width, smaller, count)
            for (width, stride, smaller), count in counts.items()
        )


def _candidate(width: int, stride: int, name: str) -> nn.Module:
    module: nn.Module = DARTS_CANDIDATES.get(name)(width, stride, True)
    return module
