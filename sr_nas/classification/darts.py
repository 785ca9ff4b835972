"""The DARTS space (Liu et al. 2019): networks for CIFAR and ImageNet, and the supernet, whose every edge chooses an operation.

The reduced spaces S1 to S4 (Zela et al. 2020) are lists of candidates, of all edges or of each. A label such as ``normal2<-0``
means: node 2 of a normal cell reads the cell before last. Which two edges a node keeps, :meth:`DARTSSpace.decode` decides.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import (
    ARCH,
    DARTS_CANDIDATES,
    DARTS_OPERATIONS,
    FIRST_NODE,
    KINDS,
    READS,
    FactorizedReduce,
    cell_diagram,
    drop_path,
    edges,
    node_choices,
    node_range,
    operation_and_source,
    pick,
    read_cells,
    relu_conv_bn,
)
from sr_nas.classification.mixed import CellMixedOp
from sr_nas.contracts import Classifier, CostSite, Diagram, Weights
from sr_nas.errors import listing, nearest
from sr_nas.genotype import Choice, Genotype, GenotypeLike, is_genotype_path
from sr_nas.ops.mixed import PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import CLASSIFICATION_SPACES, CLASSIFIERS

Stem = Literal["cifar", "imagenet"]
AtLeast1 = Annotated[int, Ge(1), Le(4096)]
AtLeast2 = Annotated[int, Ge(2), Le(4096)]
AtLeast3 = Annotated[int, Ge(3), Le(4096)]
Candidates = list[str] | dict[str, list[str]] | None

RunEdge = Callable[[str, int, int, nn.Module, Tensor], Tensor]
"""(kind of cell, node, node that it reads, module, its input) -> the edge's output."""


class DARTSCell(nn.Module):
    """A cell: two inputs brought to its channels, nodes that add up edges from all before them, the last ones joined.

    Args:
        frame: the network, which builds the edges.
        kind: ``"normal"``, or ``"reduce"`` where edges from the cell's inputs have stride 2.
        inputs: channels of the outputs of the cell before last and of the last cell.
        channels: of every node.
        after_reduction: the first input has twice the height and width of the second.
    """

    def __init__(self, frame: DARTSFrame, kind: str, inputs: tuple[int, int], channels: int, after_reduction: bool) -> None:
        super().__init__()
        self.kind, self.channels, self.nodes, self.multiplier = kind, channels, frame.nodes, frame.multiplier
        first = FactorizedReduce if after_reduction else relu_conv_bn
        self.preprocess0 = first(inputs[0], channels, affine=frame.affine)
        self.preprocess1 = relu_conv_bn(inputs[1], channels, affine=frame.affine)
        self.edges = nn.ModuleDict()
        for node, source in edges(self.nodes):
            module = frame.build_edge(kind, node, source, channels, self.stride(source))
            if module is not None:
                self.edges[f"{node}_{source}"] = module

    def stride(self, source: int) -> int:
        """Stride of an edge from ``source``."""
        return 2 if self.kind == "reduce" and source < FIRST_NODE else 1

    def run(self, before: Tensor, last: Tensor, run_edge: RunEdge) -> Tensor:
        """Map the outputs of the cell before last and of the last cell to ``[N, multiplier * channels, H', W']``."""
        states = [self.preprocess0(before), self.preprocess1(last)]
        for node in node_range(self.nodes):
            first, *rest = (
                run_edge(self.kind, node, source, self.edges[f"{node}_{source}"], state)
                for source, state in enumerate(states)
                if f"{node}_{source}" in self.edges
            )
            states.append(sum(rest, first))
        return torch.cat(states[-self.multiplier :], dim=1)


def check_multiplier(nodes: int, multiplier: int) -> None:
    """Raise ValueError where more nodes are joined than there are."""
    if multiplier > nodes:
        raise ValueError(f"multiplier {multiplier} joins more than the {nodes} nodes of a cell")


def _halving(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out_channels)


class DARTSFrame(nn.Module):
    """What networks and supernet share: stem, cells of which those at 1/3 and 2/3 reduce, classifier.

    The arguments are those of :class:`DARTS`. A subclass sets ``affine``, whether the cells' BatchNorms have a scale and a shift,
    and defines :meth:`build_edge`, which is called while the frame is built.
    """

    affine: ClassVar[bool]

    def __init__(
        self, stem: str, channels: int, num_cells: int, num_classes: int, nodes: int, multiplier: int, stem_multiplier: int
    ) -> None:
        super().__init__()
        check_multiplier(nodes, multiplier)
        self.stem_type, self.channels, self.num_cells, self.num_classes = stem, channels, num_cells, num_classes
        self.nodes, self.multiplier, self.stem_multiplier = nodes, multiplier, stem_multiplier
        if stem == "cifar":
            width = stem_multiplier * channels
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
            self.second_stem: nn.Module = nn.Identity()
        else:
            width = channels
            self.stem = nn.Sequential(*_halving(3, channels // 2), nn.ReLU(), *_halving(channels // 2, channels))
            self.second_stem = nn.Sequential(nn.ReLU(), *_halving(channels, channels))
        inputs, after_reduction = (width, width), stem == "imagenet"
        self.reductions = (num_cells // 3, 2 * num_cells // 3)
        self.cells = nn.ModuleList()
        for index in range(num_cells):
            kind = KINDS[index in self.reductions]
            channels *= 2 if kind == "reduce" else 1
            self.cells.append(DARTSCell(self, kind, inputs, channels, after_reduction))
            inputs, after_reduction = (inputs[1], multiplier * channels), kind == "reduce"
        self.classifier = nn.Linear(inputs[1], num_classes)

    @abstractmethod
    def build_edge(self, kind: str, node: int, source: int, channels: int, stride: int) -> nn.Module | None:
        """Return the module on the edge from ``source`` to ``node``; ``None`` for no edge."""

    def frame_settings(self) -> dict[str, Any]:
        """The arguments that the network and its supernet have in common."""
        names = ("channels", "num_cells", "num_classes", "nodes", "multiplier", "stem_multiplier")
        return {"stem": self.stem_type} | {name: getattr(self, name) for name in names}

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """The cell of each kind with the operations of its edges."""
        both = " and ".join(str(index + 1) for index in self.reductions)
        notes = f"all of {self.num_cells} cells but {both}", f"cells {both} of {self.num_cells}"
        return [cell_diagram(*pair, genotype, self.nodes, self.multiplier) for pair in zip(KINDS, notes, strict=True)]

    def classify(self, x: Tensor, run_edge: RunEdge) -> tuple[Tensor, Tensor]:
        """Run the network on ``[N, 3, H, W]`` with the given function for its edges.

        Returns:
            The logits ``[N, num_classes]``, and the output of the second reduction cell, which an auxiliary head reads.
        """
        before = self.stem(x)
        last = features = self.second_stem(before)
        for index, cell in enumerate(self.cells):
            before, last = last, cell.run(before, last, run_edge)  # type: ignore[operator]
            if index == self.reductions[1]:
                features = last
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1)), features


class AuxiliaryHead(nn.Module):
    """ReLU, average pooling, two convolutions, classifier (Liu et al. 2019, after Inception): a second loss for training.

    Features are 8x8 behind the stem for CIFAR, 7x7 behind that for ImageNet, whose published networks lack the last BatchNorm.
    """

    def __init__(self, channels: int, num_classes: int, stem: str) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, 3 if stem == "cifar" else 2, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if stem == "cifar" else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[N, channels, H, W]`` to logits; features larger than 8x8 (7x7) are averaged at the end."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


@CLASSIFIERS.register()
class DARTS(DARTSFrame, Classifier):
    """A network of the DARTS space with the cells of a genotype; by default that of DARTS_V2 for CIFAR-10.

    In training mode with an auxiliary head it returns ``(logits, auxiliary logits)``, else the logits.

    Args:
        stem: what stands in front of the cells: one convolution (``cifar``), or three of stride 2 (``imagenet``).
        channels: C, channels of the first cells; published networks have 36 on CIFAR, 48 on ImageNet.
        num_cells: number of cells, two of which reduce; published networks have 20 on CIFAR, 14 on ImageNet.
        num_classes: number of classes.
        genotype: the name of a published one, such as ``DARTS_V2``, the text ``Genotype(normal=[...], ...)`` of public code, or
            two picks for each node of a normal and a reduction cell.
        auxiliary: a second classifier at the second reduction, for training; published counts leave it out.
        nodes: nodes of a cell; 4 in the paper.
        multiplier: how many nodes, the last, are joined as a cell's output; 4 in the paper.
        stem_multiplier: channels of the CIFAR stem, in C; 3 in the paper.

    Attributes:
        drop_path: probability that an operation other than an identity is left out for a sample in training mode; a trainer
            sets it as an epoch begins.
    """

    arch = ARCH
    affine = True

    def __init__(
        self,
        stem: Stem = "cifar",
        channels: AtLeast2 = 36,
        num_cells: AtLeast3 = 20,
        num_classes: AtLeast2 = 10,
        genotype: GenotypeLike = "DARTS_V2",
        auxiliary: bool = False,
        nodes: AtLeast1 = 4,
        multiplier: AtLeast1 = 4,
        stem_multiplier: AtLeast1 = 3,
    ) -> None:
        self.genotype = read_cells(genotype, nodes, multiplier)
        super().__init__(stem, channels, num_cells, num_classes, nodes, multiplier, stem_multiplier)
        self.input_size = 32 if stem == "cifar" else 224
        self.drop_path: float = 0.0
        # After two reductions.
        self.auxiliary = AuxiliaryHead(multiplier * 4 * channels, num_classes, stem) if auxiliary else None

    def build_edge(self, kind: str, node: int, source: int, channels: int, stride: int) -> nn.Module | None:
        for operation, read in map(operation_and_source, self.genotype[f"{kind}{node}"]):
            if read == source:
                return DARTS_CANDIDATES.get(operation)(channels, stride, True)
        return None

    choices = staticmethod(node_choices)

    @staticmethod
    def check(genotype: Any = "DARTS_V2", nodes: int = 4, multiplier: int = 4, **_: Any) -> None:
        """Raise ValueError for options that no type excludes; a genotype's path is checked when it is read."""
        check_multiplier(nodes, multiplier)
        if not is_genotype_path(genotype):
            read_cells(genotype, nodes, multiplier)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        genotype = self.genotype.to_json()["genotype"]
        return self.frame_settings() | {"auxiliary": self.auxiliary is not None, "genotype": genotype}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[N, 3, H, W]`` to logits ``[N, num_classes]``; with those of the auxiliary head in training mode."""
        logits, features = self.classify(x, self._run_edge)
        if self.training and self.auxiliary is not None:
            return logits, self.auxiliary(features)
        return logits

    def _run_edge(self, kind: str, node: int, source: int, module: nn.Module, x: Tensor) -> Tensor:
        if not self.training or isinstance(module, nn.Identity):
            return module(x)
        return drop_path(module(x), self.drop_path)


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
        """The cell of each kind with all of its edges; a genotype names an operation by the label of each."""
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
