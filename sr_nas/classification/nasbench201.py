"""The five operations of NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326), by the names of its architecture strings.

A candidate is a function of its input and output channels, which an edge of a cell has alike. To add one, register a
function here and name it under ``network_g.candidates`` in an option file; the table of true accuracies knows these five.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from sr_nas.classification.darts_operations import Zero, relu_conv_bn
from sr_nas.contracts import Classifier
from sr_nas.genotype import Choice, Genotype, GenotypeError, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.registry import CLASSIFIERS, Registry

NASBENCH201_CANDIDATES = Registry("NAS-Bench-201 candidate", "sr_nas.classification.nasbench201")


@NASBENCH201_CANDIDATES.register()
def none(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return Zero(1)


@NASBENCH201_CANDIDATES.register()
def skip_connect(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return nn.Identity()


@NASBENCH201_CANDIDATES.register()
def nor_conv_1x1(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return relu_conv_bn(in_channels, out_channels, 1, affine=affine)


@NASBENCH201_CANDIDATES.register()
def nor_conv_3x3(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return relu_conv_bn(in_channels, out_channels, 3, affine=affine)


@NASBENCH201_CANDIDATES.register()
def avg_pool_3x3(in_channels: int, out_channels: int, affine: bool = True) -> nn.Module:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


NASBENCH201_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The benchmark's candidates, the default of the search space. Registering another operation does not change it."""


# MERGED sr_nas.classification.nasbench201: The networks of NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326):
# one cell of six edges, repeated in three stages.


Channels = Annotated[int, Field(ge=1, description="channels of the first stage; doubled in the second and third")]
Cells = Annotated[int, Field(ge=1, description="cells of each of the three stages; the benchmark has 5")]

NODES = 4
EDGES = tuple(f"{node}<-{source}" for node in range(1, NODES) for source in range(node))
"""Labels of a cell's edges, in the order of an architecture string."""
STAGES = 3
PLAIN = ("nor_conv_3x3",) * len(EDGES)


def architecture_string(genotype: Genotype) -> str:
    """Return e.g. ``|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|none~1|none~2|``, the benchmark's own form."""
    ends = {node: "".join(f"{genotype[f'{node}<-{source}'][0]}~{source}|" for source in range(node)) for node in range(1, NODES)}
    return "+".join(f"|{end}" for end in ends.values())


def read_genotype(source: Any) -> Genotype:
    """Check an architecture string, or anything else that :func:`~sr_nas.genotype.genotype_from` takes.

    Raises:
        GenotypeError: it is of another form, or names what there is not.
    """
    return genotype_from(_edges(source) if isinstance(source, str) and "|" in source else source, NASBench201.arch, choices())


def choices() -> dict[str, Choice]:
    """One operation for each of the six edges."""
    return {label: Choice(tuple(NASBENCH201_CANDIDATES.names())) for label in EDGES}


def _edges(text: str) -> dict[str, str]:
    found = {}
    for node, part in enumerate(text.strip().split("+"), start=1):
        names = re.fullmatch(r"\|(?:[^|~]+~\d+\|)+", part.strip())
        for name, source in re.findall(r"([^|~]+)~(\d+)", part) if names else [("", str(NODES))]:
            if (label := f"{node}<-{source}") not in EDGES or label in found:
                raise GenotypeError(
                    f"'{text}' is no architecture of NAS-Bench-201. One reads |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, "
                    f"each op one of {', '.join(NASBENCH201_CANDIDATES.names())}."
                )
            found[label] = name
    return found


class ReductionBlock(nn.Module):
    """The residual block between two stages: half the size, twice the channels.

    Args:
        channels: of the input.
        affine: whether its BatchNorms have weights.
    """

    def __init__(self, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            relu_conv_bn(channels, 2 * channels, 3, stride=2, affine=affine),
            relu_conv_bn(2 * channels, 2 * channels, 3, affine=affine),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, 2C, H/2, W/2]``; H and W are even."""
        return self.convs(x) + self.shortcut(x)


class Cell(nn.Module):
    """Four nodes; each is the sum over all earlier ones, through the operation of the edge between.

    Args:
        edges: label -> operation that keeps the shape.
    """

    def __init__(self, edges: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(edges)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        return self.run(x, lambda labels, features: [self.edges[label](features) for label in labels])

    @staticmethod
    def run(x: Tensor, leave: Callable[[Sequence[str], Tensor], Sequence[Tensor]]) -> Tensor:
        """Run the cell.

        Args:
            x: the first node.
            leave: (labels of the edges out of a node, the node) -> what each of them carries.
        """
        nodes: dict[int, Tensor] = {0: x}
        for source in range(NODES - 1):
            later = range(source + 1, NODES)
            for node, carried in zip(later, leave([f"{node}<-{source}" for node in later], nodes[source]), strict=True):
                nodes[node] = carried if source == 0 else nodes[node] + carried
        return nodes[NODES - 1]


class NASBench201Frame(nn.Module):
    """Everything of a network but the operations of its cells.

    Args:
        num_classes: number of classes.
        channels: of the first stage.
        num_cells: of each stage.
        build_edge: (label, channels) -> the operation there.
        affine: whether BatchNorms outside the cells have weights.
    """

    def __init__(
        self, num_classes: int, channels: int, num_cells: int, build_edge: Callable[[str, int], nn.Module], affine: bool = True
    ) -> None:
        super().__init__()
        self.num_classes, self.channels, self.num_cells = num_classes, channels, num_cells
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.stages = nn.ModuleList(
            nn.ModuleList(Cell({label: build_edge(label, width) for label in EDGES}) for _ in range(num_cells))
            for width in self.widths(channels)
        )
        self.reductions = nn.ModuleList(ReductionBlock(width, affine) for width in self.widths(channels)[:-1])
        last = self.widths(channels)[-1]
        self.head = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(last, num_classes)

    @staticmethod
    def widths(channels: int) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(channels * 2**stage for stage in range(STAGES))

    def classify(self, x: Tensor, run_cell: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """Run the network, each cell by the given function."""
        x = self.stem(x)
        for number, cells in enumerate(self.stages):
            if number:
                x = self.reductions[number - 1](x)
            for cell in cells:  # type: ignore[attr-defined]
                x = run_cell(cell, x)
        return self.classifier(self.head(x))


@CLASSIFIERS.register()
class NASBench201(NASBench201Frame, Classifier):
    """A network of NAS-Bench-201; with 16 channels and 5 cells a stage one of those whose accuracies are known.

    Args:
        num_classes: number of classes.
        channels: of the first stage.
        num_cells: cells of each stage.
        genotype: six names for the edges 1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2, or the benchmark's architecture string.

    Raises:
        GenotypeError: a genotype that this network does not have.
    """

    arch = "NASBench201"
    input_size = 32

    def __init__(
        self, num_classes: int = 10, channels: Channels = 16, num_cells: Cells = 5, genotype: GenotypeLike = PLAIN
    ) -> None:
        picked = read_genotype(genotype)
        super().__init__(
            num_classes, channels, num_cells, lambda label, width: NASBENCH201_CANDIDATES.get(picked[label][0])(width, width)
        )
        self.genotype = picked

    @staticmethod
    def choices() -> dict[str, Choice]:
        """See :func:`choices`."""
        return choices()

    @staticmethod
    def check(genotype: Any = PLAIN, **_: Any) -> None:
        """Refuse a genotype of other names than :meth:`choices`; a path is left for when files are looked at."""
        if not is_genotype_path(genotype):
            read_genotype(genotype)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return {
            "num_classes": self.num_classes,
            "channels": self.channels,
            "num_cells": self.num_cells,
            "genotype": architecture_string(self.genotype),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``[N, 3, H, W]``, normalised; H and W are multiples of 4."""
        return self.classify(x, lambda cell, features: cell(features))
