"""Networks of the DARTS space (Liu et al. 2019) for CIFAR and ImageNet, and the frame that they share with its supernet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import (
    ARCH,
    DARTS_CANDIDATES,
    FIRST_NODE,
    KINDS,
    FactorizedReduce,
    cell_diagram,
    drop_path,
    edges,
    node_choices,
    node_range,
    operation_and_source,
    read_cells,
    relu_conv_bn,
)
from sr_nas.contracts import Classifier, Diagram
from sr_nas.genotype import Genotype, GenotypeLike, is_genotype_path
from sr_nas.registry import CLASSIFIERS

Stem = Literal["cifar", "imagenet"]
AtLeast1 = Annotated[int, Ge(1), Le(4096)]
AtLeast2 = Annotated[int, Ge(2), Le(4096)]
AtLeast3 = Annotated[int, Ge(3), Le(4096)]

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
