"""The chain of cells that DARTS networks and their supernet share (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.networks.darts_cell import BuildEdge, DARTSCell, RunEdge
from sr_nas.networks.darts_genotype import KINDS

Stem = Annotated[
    Literal["cifar", "imagenet"],
    Field(description="what stands in front of the cells: one convolution, or three of stride 2 (images an eighth as large)"),
]
Channels = Annotated[
    int, Field(ge=2, description="C, channels of the first cells: 16 in a search, then 36 (CIFAR), 48 (ImageNet)")
]
Cells = Annotated[int, Field(ge=3, description="cells, two of which reduce: 8 in a search, then 20 (CIFAR), 14 (ImageNet)")]
Classes = Annotated[int, Field(ge=2, description="classes of the data set")]
Nodes = Annotated[int, Field(ge=1, description="nodes of a cell; 4 in the paper")]
Multiplier = Annotated[int, Field(ge=1, description="how many nodes, the last, are joined as the output; 4 in the paper")]
StemMultiplier = Annotated[int, Field(ge=1, description="channels of the CIFAR stem, in C; 3 in the paper")]


def check_multiplier(nodes: int, multiplier: int) -> None:
    """Raise ValueError where more nodes are joined than there are."""
    if multiplier > nodes:
        raise ValueError(f"multiplier {multiplier} joins more than the {nodes} nodes of a cell")


def _stem(stem: str, channels: int, stem_multiplier: int) -> tuple[nn.Module, nn.Module, int]:
    """What makes the first and the second input of the first cell, and their channels."""
    if stem == "cifar":
        width = stem_multiplier * channels
        return nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)), nn.Identity(), width
    first = nn.Sequential(*_halving(3, channels // 2), nn.ReLU(), *_halving(channels // 2, channels))
    return first, nn.Sequential(nn.ReLU(), *_halving(channels, channels)), channels


def _halving(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out_channels)


class DARTSFrame(nn.Module):
    """Everything of a DARTS network but its edges: stem, cells of which those at 1/3 and 2/3 reduce, classifier.

    Args:
        stem: ``"cifar"`` or ``"imagenet"``.
        channels: C, of the first cells; a reduction doubles them.
        num_cells: number of cells.
        num_classes: number of logits.
        nodes: nodes of a cell.
        multiplier: how many nodes, the last, are a cell's output.
        stem_multiplier: channels of the CIFAR stem, in C.
        affine: whether the cells' BatchNorms have a scale and a shift; the stem's have.
        build_edge: what is on an edge.

    Raises:
        ValueError: more nodes joined than there are.
    """

    def __init__(
        self,
        stem: str,
        channels: int,
        num_cells: int,
        num_classes: int,
        nodes: int,
        multiplier: int,
        stem_multiplier: int,
        affine: bool,
        build_edge: BuildEdge,
    ) -> None:
        super().__init__()
        check_multiplier(nodes, multiplier)
        self.stem_type, self.channels, self.num_cells, self.num_classes = stem, channels, num_cells, num_classes
        self.nodes, self.multiplier, self.stem_multiplier = nodes, multiplier, stem_multiplier
        self.stem, self.second_stem, width = _stem(stem, channels, stem_multiplier)
        reads, after_reduction = (width, width), stem == "imagenet"
        self.cells = nn.ModuleList()
        for kind in self.kinds():
            channels *= 2 if kind == "reduce" else 1
            self.cells.append(DARTSCell(kind, reads, channels, after_reduction, nodes, multiplier, affine, build_edge))
            reads, after_reduction = (reads[1], multiplier * channels), kind == "reduce"
        self.classifier = nn.Linear(reads[1], num_classes)

    def kinds(self) -> Iterator[str]:
        """The kind of every cell, first to last."""
        reductions = (self.num_cells // 3, 2 * self.num_cells // 3)
        return (KINDS[index in reductions] for index in range(self.num_cells))

    def frame_settings(self) -> dict[str, str | int]:
        """The arguments that the network and its supernet have in common."""
        names = ("channels", "num_cells", "num_classes", "nodes", "multiplier", "stem_multiplier")
        return {"stem": self.stem_type} | {name: getattr(self, name) for name in names}

    def classify(self, x: Tensor, run_edge: RunEdge) -> tuple[Tensor, Tensor]:
        """Run the network with the given function for its edges.

        Args:
            x: ``[N, 3, H, W]``.
            run_edge: what an edge gives to its node.

        Returns:
            The logits ``[N, num_classes]``, and the output of the second reduction cell, at which an auxiliary head looks.
        """
        before = self.stem(x)
        last = tapped = self.second_stem(before)
        for index, cell in enumerate(self._cells()):
            before, last = last, cell.run(before, last, run_edge)
            if index == 2 * self.num_cells // 3:
                tapped = last
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1)), tapped

    def _cells(self) -> Iterable[DARTSCell]:
        return self.cells  # type: ignore[return-value]
