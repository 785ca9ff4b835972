"""NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326): candidates, networks, and the supernet of all 15,625 of them.

A candidate is a function of its input and output channels, which are equal in a cell, and of whether its BatchNorms have weights.
To add one, register a function and name it under ``network_g.candidates`` in an option file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor, nn

from sr_nas.classification.darts_operations import Zero, drop_path, relu_conv_bn
from sr_nas.classification.mixed import mixed_apart, mixed_together
from sr_nas.contracts import Classifier, CostSite, Diagram, Edge, Node, Weights, keep_strongest
from sr_nas.errors import listing
from sr_nas.genotype import Choice, Genotype, GenotypeError, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.ops.fused import Execution
from sr_nas.ops.mixed import MixedOp, PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import CLASSIFICATION_SPACES, CLASSIFIERS, Registry

Channels = Annotated[int, Ge(1), Le(4096)]
Cells = Annotated[int, Ge(1), Le(1000)]

ARCH = "NASBench201"
NODES = 4
EDGES = tuple(f"{node}<-{source}" for node in range(1, NODES) for source in range(node))
"""Labels of a cell's edges, in the order of an architecture string."""
STAGES = 3
PLAIN = ("nor_conv_3x3",) * len(EDGES)
_STRING = r"\+".join(r"\|" + "".join(rf"([^|~+]+)~{source}\|" for source in range(node)) for node in range(1, NODES))

NASBENCH201_CANDIDATES = Registry("NAS-Bench-201 candidate", "sr_nas.classification.nasbench201")

_BENCHMARK: dict[str, Callable[..., nn.Module]] = {
    "none": lambda in_channels, out_channels, affine=True: Zero(1),
    "skip_connect": lambda in_channels, out_channels, affine=True: nn.Identity(),
    "nor_conv_1x1": lambda in_channels, out_channels, affine=True: relu_conv_bn(in_channels, out_channels, 1, affine=affine),
    "nor_conv_3x3": lambda in_channels, out_channels, affine=True: relu_conv_bn(in_channels, out_channels, 3, affine=affine),
    "avg_pool_3x3": lambda in_channels, out_channels, affine=True: nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
}
for _name, _build in _BENCHMARK.items():
    NASBENCH201_CANDIDATES.register(_name)(_build)

NASBENCH201_OPERATIONS = tuple(_BENCHMARK)
"""The benchmark's candidates, the default of the search space. Registering another operation does not change it."""


def architecture_string(genotype: Genotype) -> str:
    """Return the benchmark's notation, e.g. ``|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|``."""
    ends = ["".join(f"{genotype[f'{node}<-{source}'][0]}~{source}|" for source in range(node)) for node in range(1, NODES)]
    return "+".join(f"|{end}" for end in ends)


def read_genotype(source: Any) -> Genotype:
    """Check an architecture string, or anything else that :func:`~sr_nas.genotype.genotype_from` takes; else a GenotypeError."""
    if isinstance(source, str) and "|" in source:
        match = re.fullmatch(_STRING, re.sub(r"\s", "", source))
        if match is None:
            raise GenotypeError(
                f"'{source}' is no architecture of NAS-Bench-201. One reads |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, "
                f"each op one of {', '.join(NASBENCH201_CANDIDATES.names())}."
            )
        source = match.groups()
    return genotype_from(source, ARCH, NASBench201.choices())


class ReductionBlock(nn.Module):
    """The residual block between two stages: half the size, twice the channels."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            relu_conv_bn(channels, 2 * channels, 3, stride=2, affine=affine),
            relu_conv_bn(2 * channels, 2 * channels, 3, affine=affine),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, 2C, H/2, W/2]``; H and W are even."""
        return self.convs(x) + self.shortcut(x)


def _each_edge(cell: Cell, labels: Sequence[str], x: Tensor) -> list[Tensor]:
    return [cell.edges[label](x) for label in labels]


class Cell(nn.Module):
    """Four nodes; each is the sum over all earlier ones, through the operation of the edge between, which keeps the shape."""

    def __init__(self, edges: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(edges)

    def forward(self, x: Tensor, run_edges: RunEdges = _each_edge) -> Tensor:
        """Map the first node ``[N, C, H, W]`` to the last, of the same shape."""
        nodes: dict[int, Tensor] = {0: x}
        for source in range(NODES - 1):
            targets = range(source + 1, NODES)
            outputs = run_edges(self, [f"{node}<-{source}" for node in targets], nodes[source])
            for node, output in zip(targets, outputs, strict=True):
                nodes[node] = nodes[node] + output if node in nodes else output
        return nodes[NODES - 1]


RunEdges = Callable[[Cell, Sequence[str], Tensor], Sequence[Tensor]]
"""(cell, labels of the edges out of one node, that node) -> outputs of these edges."""


class NASBench201Frame(nn.Module):
    """What networks and supernet share: all but the operations, which ``build_edge``, (label, channels) -> module, builds.

    ``affine`` says whether BatchNorms between the stages have weights.
    """

    def __init__(
        self, num_classes: int, channels: int, num_cells: int, build_edge: Callable[[str, int], nn.Module], affine: bool = True
    ) -> None:
        super().__init__()
        self.num_classes, self.channels, self.num_cells = num_classes, channels, num_cells
        self.widths = tuple(channels * 2**stage for stage in range(STAGES))
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.stages = nn.ModuleList(
            nn.ModuleList(Cell({label: build_edge(label, width) for label in EDGES}) for _ in range(num_cells))
            for width in self.widths
        )
        self.reductions = nn.ModuleList(ReductionBlock(width, affine) for width in self.widths[:-1])
        self.head = nn.Sequential(nn.BatchNorm2d(self.widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(self.widths[-1], num_classes)

    def classify(self, x: Tensor, run_edges: RunEdges = _each_edge) -> Tensor:
        """Map ``[N, 3, H, W]`` to logits ``[N, num_classes]``, with the given function for the edges of every cell."""
        x = self.stem(x)
        for number, cells in enumerate(self.stages):
            if number:
                x = self.reductions[number - 1](x)
            for cell in cells:  # type: ignore[attr-defined]
                x = cell(x, run_edges)
        return self.classifier(self.head(x))

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """A cell with the operations of its edges."""
        nodes = {str(node): Node(str(node)) for node in range(NODES)}
        edges = []
        for label in EDGES:
            (name, *_), (target, source) = genotype[label], label.split("<-")
            edges.append(Edge(source, target, name, "faint" if name == "none" else "searched", 1 if source == "1" else -1))
        note = f"a node is the sum of its arrows; 3 stages of {self.num_cells} cells, with {listing(self.widths)} channels"
        return [Diagram("each cell", nodes, edges, note, in_a_row=True)]


@CLASSIFIERS.register()
class NASBench201(NASBench201Frame, Classifier):
    """A network of NAS-Bench-201; with 16 channels and 5 cells a stage, one of those whose accuracies are known.

    Args:
        num_classes: number of classes.
        channels: channels of the first stage; doubled in the second and third.
        num_cells: cells of each of the three stages; the benchmark has 5.
        genotype: six names for the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2, or the benchmark's architecture string.
    """

    arch = ARCH
    input_size = 32

    def __init__(
        self, num_classes: int = 10, channels: Channels = 16, num_cells: Cells = 5, genotype: GenotypeLike = PLAIN
    ) -> None:
        checked = read_genotype(genotype)
        super().__init__(
            num_classes, channels, num_cells, lambda label, width: NASBENCH201_CANDIDATES.get(checked[label][0])(width, width)
        )
        self.genotype = checked

    @staticmethod
    def choices() -> dict[str, Choice]:
        """One operation for each of the six edges."""
        return {label: Choice(tuple(NASBENCH201_CANDIDATES.names())) for label in EDGES}

    @staticmethod
    def check(genotype: Any = PLAIN, **_: Any) -> None:
        """Raise GenotypeError for a genotype of other names; a path is checked when it is read."""
        if not is_genotype_path(genotype):
            read_genotype(genotype)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        sizes = {name: getattr(self, name) for name in ("num_classes", "channels", "num_cells")}
        return sizes | {"genotype": architecture_string(self.genotype)}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, 3, H, W]``, normalised, to logits ``[N, num_classes]``; H and W are multiples of 4."""
        return self.classify(x)


@CLASSIFICATION_SPACES.register("NASBench201")
class NASBench201Space(NASBench201Frame):
    """NAS-Bench-201 supernet: 5^6 = 15,625 networks, whose true accuracies are known.

    Args:
        num_classes: number of classes.
        channels: channels of the first stage; doubled in the second and third.
        num_cells: cells of each of the three stages; all share one alpha per edge.
        candidates: names to choose from on every edge; ``None`` for the benchmark's five.
        partial_channel: K of the mixed operation; must divide the channels.
        edge_normalization: also weigh the edges into a node, by choices of inputs that keep all (eq. 20 of SA-DARTS).
        affine: whether the candidates' BatchNorms have weights; without them alpha alone scales a candidate (DARTS).
        execution: how mixed operations run: candidates one at a time, or all that read a node together, which is faster.

    Attributes:
        auxiliary_skip: weight of a skip connection beside every mixed operation (DARTS-).
        drop_path: probability that an edge is left out for a sample in training mode.

    Raises:
        ValueError: an unknown candidate, fewer than two, or a K that does not divide the channels.
    """

    arch = ARCH
    auxiliary_skip: float = 0.0
    drop_path: float = 0.0

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
        names = tuple(candidates or NASBENCH201_OPERATIONS)
        builders = {name: partial(NASBENCH201_CANDIDATES.get(name), affine=affine) for name in names}
        super().__init__(
            num_classes, channels, num_cells, lambda _, width: MixedOp(builders, width, width, partial_channel), affine
        )
        self.operations, self.edge_normalization = dict.fromkeys(EDGES, Choice(names)), edge_normalization
        self.mix = mixed_together if execution == "fused" else mixed_apart

    @staticmethod
    def check(channels: int = 16, candidates: list[str] | None = None, partial_channel: int = 1, **_: Any) -> None:
        """Raise ValueError for options that no type excludes."""
        if channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide channels = {channels}")
        check_candidates(NASBENCH201_CANDIDATES, candidates)

    def choices(self) -> dict[str, Choice]:
        """One operation for each of the six edges; with edge normalisation also a weight for each of several into a node."""
        inputs = {
            f"inputs{node}": Choice(tuple(f"node{source}" for source in range(node)), node, of="inputs")
            for node in range(2, NODES)
        }
        return self.operations | (inputs if self.edge_normalization else {})

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Map ``[N, 3, H, W]``, normalised, to logits ``[N, num_classes]`` with the given candidate weights per label."""
        scales = {}
        if self.edge_normalization:
            scales = {f"{node}<-{source}": weights[f"inputs{node}"][source] for node in range(2, NODES) for source in range(node)}

        def run_edges(cell: Cell, labels: Sequence[str], features: Tensor) -> list[Tensor]:
            ops: Any = [cell.edges[label] for label in labels]
            outputs = self.mix(ops, [weights[label] for label in labels], features)
            if self.auxiliary_skip:
                outputs = [y + self.auxiliary_skip * features for y in outputs]
            if self.training:
                outputs = [drop_path(y, self.drop_path) for y in outputs]
            return [scales[label] * y if label in scales else y for label, y in zip(labels, outputs, strict=True)]

        return self.classify(x, run_edges)

    def decode(self, weights: Weights) -> Genotype:
        """Keep the heaviest candidate of every edge; a network of this space has all edges, whatever they weigh."""
        return keep_strongest(self.arch, self.operations, weights)

    def derive(self, genotype: Genotype) -> NASBench201:
        """Build the plain network of a genotype."""
        return NASBench201(self.num_classes, self.channels, self.num_cells, genotype)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not."""
        names = {f"edges.{label}.candidates.{genotype[label][0]}.": f"edges.{label}." for label in EDGES}
        return inherited_tensors(self, self.derive(genotype), names)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each edge's candidate once per cell, in every stage."""
        sites = tuple(
            CostSite(lambda name, width=width: NASBENCH201_CANDIDATES.get(name)(width, width), width, 2**stage, self.num_cells)  # type: ignore[misc]
            for stage, width in enumerate(self.widths)
        )
        return dict.fromkeys(EDGES, sites)
