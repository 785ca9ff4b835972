"""Genotypes of the DARTS space: two cells, whose nodes read two earlier ones each through an operation.

A node's picks are written ``sep_conv_3x3~0+skip_connect~1``, after the string form of NAS-Bench-201: operation, then what it
reads. 0 and 1 are the outputs of the cell before last and of the last cell, 2 and on the nodes of the cell itself.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import DARTS_CANDIDATES, AuxiliaryHead, FactorizedReduce, drop_path, relu_conv_bn
from sr_nas.contracts import Classifier
from sr_nas.genotype import Choice, Genotype, GenotypeError, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.registry import CLASSIFIERS

ARCH = "DARTS"
KINDS = ("normal", "reduce")
FIRST_NODE = 2
READS = 2
"""How many earlier nodes a node reads."""

PUBLIC_FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"

PUBLISHED = {
    # Liu et al. 2019, first and second order.
    "DARTS_V1": "sep_conv_3x3~1+sep_conv_3x3~0, skip_connect~0+sep_conv_3x3~1, skip_connect~0+sep_conv_3x3~1,"
    "sep_conv_3x3~0+skip_connect~2, max_pool_3x3~0+max_pool_3x3~1, skip_connect~2+max_pool_3x3~0,"
    "max_pool_3x3~0+skip_connect~2, skip_connect~2+avg_pool_3x3~0",
    "DARTS_V2": "sep_conv_3x3~0+sep_conv_3x3~1, sep_conv_3x3~0+sep_conv_3x3~1, sep_conv_3x3~1+skip_connect~0,"
    "skip_connect~0+dil_conv_3x3~2, max_pool_3x3~0+max_pool_3x3~1, skip_connect~2+max_pool_3x3~1,"
    "max_pool_3x3~0+skip_connect~2, skip_connect~2+max_pool_3x3~1",
    # Xie et al. 2019.
    "SNAS": "sep_conv_3x3~0+sep_conv_3x3~1, skip_connect~0+dil_conv_3x3~1, skip_connect~1+skip_connect~0,"
    "skip_connect~0+sep_conv_3x3~1, max_pool_3x3~0+max_pool_3x3~1, max_pool_3x3~1+skip_connect~2,"
    "skip_connect~2+max_pool_3x3~1, max_pool_3x3~0+dil_conv_5x5~2",
    # Chen et al. 2019.
    "PDARTS": "skip_connect~0+dil_conv_3x3~1, skip_connect~0+sep_conv_3x3~1, sep_conv_3x3~1+sep_conv_3x3~3,"
    "sep_conv_3x3~0+dil_conv_5x5~4, avg_pool_3x3~0+sep_conv_5x5~1, sep_conv_3x3~0+dil_conv_5x5~2,"
    "max_pool_3x3~0+dil_conv_3x3~1, dil_conv_3x3~1+dil_conv_5x5~3",
    # Xu et al. 2020, searched on CIFAR-10 and on ImageNet.
    "PC_DARTS_cifar": "sep_conv_3x3~1+skip_connect~0, sep_conv_3x3~0+dil_conv_3x3~1, sep_conv_5x5~0+sep_conv_3x3~1,"
    "avg_pool_3x3~0+dil_conv_3x3~1, sep_conv_5x5~1+max_pool_3x3~0, sep_conv_5x5~1+sep_conv_5x5~2,"
    "sep_conv_3x3~0+sep_conv_3x3~3, sep_conv_3x3~1+sep_conv_3x3~2",
    "PC_DARTS_image": "skip_connect~1+sep_conv_3x3~0, sep_conv_3x3~0+skip_connect~1, sep_conv_3x3~1+sep_conv_3x3~3,"
    "sep_conv_3x3~1+dil_conv_5x5~4, sep_conv_3x3~0+skip_connect~1, dil_conv_5x5~2+max_pool_3x3~1,"
    "sep_conv_3x3~2+sep_conv_3x3~1, sep_conv_5x5~0+sep_conv_3x3~3",
}
"""Cells of papers, by the names that public code gives them."""


def edges(nodes: int) -> list[tuple[int, int]]:
    """(node, what it reads) of every edge of a cell: 14 for four nodes."""
    return [(node, source) for node in range(FIRST_NODE, FIRST_NODE + nodes) for source in range(node)]


def pick(operation: str, source: int) -> str:
    """The name of an edge that is kept."""
    return f"{operation}~{source}"


def operation_and_source(name: str) -> tuple[str, int]:
    """Take apart what :func:`pick` made."""
    operation, _, source = name.rpartition("~")
    return operation, int(source)


def node_choices(nodes: int) -> dict[str, Choice]:
    """``normal2``, ``normal3``, ..., ``reduce2``, ...: two of the earlier nodes, each through any operation but none."""
    operations = [name for name in DARTS_CANDIDATES.names() if name != "none"]
    return {
        f"{kind}{node}": Choice(tuple(pick(operation, source) for source in range(node) for operation in operations), READS)
        for kind in KINDS
        for node in range(FIRST_NODE, FIRST_NODE + nodes)
    }


def read_cells(source: Any, nodes: int, multiplier: int) -> Genotype:
    """Return the genotype that ``source`` states.

    Args:
        source: what :func:`sr_nas.genotype.genotype_from` takes; a name of :data:`PUBLISHED`; or the form of public code, as a
            text such as ``"Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., ...)"`` or as a
            mapping with its keys. A text is parsed and never run.
        nodes: nodes of a cell.
        multiplier: how many of them, the last, are a cell's output.

    Raises:
        GenotypeError: it is none of these, or does not fit such a cell; or a node reads one earlier node twice.
    """
    if isinstance(source, str):
        source = PUBLISHED.get(source.strip(), source)
        if "(" in source:
            source = _parsed(source)
    if isinstance(source, Mapping) and set(KINDS) <= set(source):
        source = _from_public(source, nodes, multiplier)
    genotype = genotype_from(source, ARCH, node_choices(nodes))
    for label, names in genotype.picks:
        if len({operation_and_source(name)[1] for name in names}) < READS:
            raise GenotypeError(f"{ARCH}.{label} reads {READS} different nodes; given: {' and '.join(names)}.")
    return genotype


def _parsed(text: str) -> dict[str, Any]:
    try:
        (statement,) = ast.parse(text.strip()).body
        call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
        if not isinstance(call, ast.Call) or call.args or not ast.unparse(call.func).endswith("Genotype"):
            raise ValueError("a call of Genotype with named fields is expected")
        return {str(field.arg): _value(field.value) for field in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"this is not of the form {PUBLIC_FORM}: {error}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return ast.literal_eval(node)


def _from_public(fields: Mapping[str, Any], nodes: int, multiplier: int) -> dict[str, list[str]]:
    picked, outputs = {}, range(FIRST_NODE + nodes - multiplier, FIRST_NODE + nodes)
    for kind in KINDS:
        concat = fields.get(f"{kind}_concat", outputs)
        if not isinstance(concat, (range, Sequence)) or len(concat) != len(outputs) or list(concat) != list(outputs):
            raise GenotypeError(f"{kind}_concat is {concat!r}, and the output of this network's cells is {list(outputs)}.")
        reads = [_edge(kind, found) for found in (fields[kind] if isinstance(fields[kind], Iterable) else ())]
        if len(reads) != READS * nodes:
            raise GenotypeError(f"{kind} has {len(reads)} edges; with {nodes} nodes a cell keeps {READS * nodes}.")
        for place in range(nodes):
            picked[f"{kind}{FIRST_NODE + place}"] = reads[READS * place : READS * (place + 1)]
    return picked


def _edge(kind: str, found: Any) -> str:
    if not isinstance(found, Sequence) or len(found) != 2 or not isinstance(found[0], str) or not isinstance(found[1], int):
        raise GenotypeError(f"an edge of {kind} is a pair such as ('sep_conv_3x3', 0), not {found!r}.")
    return pick(found[0], found[1])


# MERGED sr_nas.classification.darts: The cell of the DARTS space (Liu et al. 2019), whatever its edges compute.


BuildEdge = Callable[[str, int, int, int, int], nn.Module | None]
"""(kind of cell, node, what it reads, channels, stride) -> the module on that edge; ``None`` for no edge."""

RunEdge = Callable[[str, int, int, nn.Module, Tensor], Tensor]
"""(kind of cell, node, what it reads, module, its input) -> what the node adds up."""


class DARTSCell(nn.Module):
    """A cell: two inputs brought to its channels, nodes that add up edges from all before them, the last ones joined.

    Args:
        kind: ``"normal"``, or ``"reduce"`` where edges from the cell's inputs have stride 2.
        reads: channels of the outputs of the cell before last and of the last cell.
        channels: of every node.
        after_reduction: the first input is twice as large, a side, as the second.
        nodes: number of nodes.
        multiplier: how many nodes are joined.
        affine: whether BatchNorms have a scale and a shift.
        build_edge: what is on an edge.
    """

    def __init__(
        self,
        kind: str,
        reads: tuple[int, int],
        channels: int,
        after_reduction: bool,
        nodes: int,
        multiplier: int,
        affine: bool,
        build_edge: BuildEdge,
    ) -> None:
        super().__init__()
        self.kind, self.channels, self.nodes, self.multiplier = kind, channels, nodes, multiplier
        first = FactorizedReduce if after_reduction else relu_conv_bn
        self.preprocess0 = first(reads[0], channels, affine=affine)
        self.preprocess1 = relu_conv_bn(reads[1], channels, affine=affine)
        self.edges = nn.ModuleDict()
        for node, source in edges(nodes):
            built = build_edge(kind, node, source, channels, self.stride(source))
            if built is not None:
                self.edges[edge_key(node, source)] = built

    def stride(self, source: int) -> int:
        """Stride of an edge from ``source``."""
        return 2 if self.kind == "reduce" and source < FIRST_NODE else 1

    def run(self, before: Tensor, last: Tensor, run_edge: RunEdge) -> Tensor:
        """Map the outputs of the cell before last and of the last cell to ``[N, multiplier * channels, H', W']``."""
        states = [self.preprocess0(before), self.preprocess1(last)]
        for node in range(FIRST_NODE, FIRST_NODE + self.nodes):
            first, *rest = (
                run_edge(self.kind, node, source, self.edges[edge_key(node, source)], state)
                for source, state in enumerate(states)
                if edge_key(node, source) in self.edges
            )
            for term in rest:
                first = first + term
            states.append(first)
        return torch.cat(states[-self.multiplier :], dim=1)


def edge_key(node: int, source: int) -> str:
    """Name of an edge's module in :attr:`DARTSCell.edges`."""
    return f"{node}_{source}"


# MERGED sr_nas.classification.darts: The chain of cells that DARTS networks and their supernet share (Liu et
# al. 2019).


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


# MERGED sr_nas.classification.darts: The networks of the DARTS space (Liu et al. 2019) for CIFAR and ImageNet, with
# any genotype.


DARTS_PUBLISHED = "DARTS_V2"

Auxiliary = Annotated[
    bool, Field(description="a second classifier at the second reduction, for training; published counts leave it out")
]


@CLASSIFIERS.register()
class DARTS(DARTSFrame, Classifier):
    """A network of the DARTS space with the cells of a genotype; by default that of DARTS_V2 for CIFAR-10.

    In training mode with an auxiliary head it returns ``(logits, auxiliary logits)``, else the logits.

    Args:
        stem: ``"cifar"``, or ``"imagenet"``, which the published networks have with C 48, 14 cells and 1000 classes.
        channels: C, of the first cells.
        num_cells: number of cells.
        num_classes: number of logits.
        genotype: cells, in any form that :func:`sr_nas.classification.darts.read_cells` takes: the name of a published one,
            the text of public code, or two picks for each node of a normal and a reduction cell.
        auxiliary: whether it has an auxiliary head.
        nodes: nodes of a cell.
        multiplier: how many nodes, the last, are a cell's output.
        stem_multiplier: channels of the CIFAR stem, in C.

    Attributes:
        drop_path: probability that an operation, other than an identity, is left out for a sample in training mode. A trainer
            sets it, as an epoch begins; 0 at first.

    Raises:
        GenotypeError: a genotype that this network does not have.
        ValueError: more nodes joined than there are.
    """

    arch = ARCH

    def __init__(
        self,
        stem: Stem = "cifar",
        channels: Channels = 36,
        num_cells: Cells = 20,
        num_classes: Classes = 10,
        genotype: GenotypeLike = DARTS_PUBLISHED,
        auxiliary: Auxiliary = False,
        nodes: Nodes = 4,
        multiplier: Multiplier = 4,
        stem_multiplier: StemMultiplier = 3,
    ) -> None:
        picked = read_cells(genotype, nodes, multiplier)
        kept = {
            (label, source): operation
            for label, names in picked.picks
            for operation, source in (operation_and_source(name) for name in names)
        }

        def build_edge(kind: str, node: int, source: int, width: int, stride: int) -> nn.Module | None:
            operation = kept.get((f"{kind}{node}", source))
            return None if operation is None else DARTS_CANDIDATES.get(operation)(width, stride, True)

        super().__init__(stem, channels, num_cells, num_classes, nodes, multiplier, stem_multiplier, True, build_edge)
        self.genotype = picked
        self.input_size = 32 if stem == "cifar" else 224
        self.drop_path: float = 0.0
        self.auxiliary: AuxiliaryHead | None = None
        if auxiliary:
            # After two reductions; the ImageNet network was trained with 7x7 there, and without the last BatchNorm.
            on_cifar, width = stem == "cifar", multiplier * 4 * channels
            self.auxiliary = AuxiliaryHead(width, num_classes, stride=3 if on_cifar else 2, last_norm=on_cifar)

    @staticmethod
    def choices(nodes: int = 4) -> dict[str, Choice]:
        """``normal2`` and on, ``reduce2`` and on: two reads each, such as ``sep_conv_3x3~0``."""
        return node_choices(nodes)

    @staticmethod
    def check(genotype: Any = DARTS_PUBLISHED, nodes: int = 4, multiplier: int = 4, **_: Any) -> None:
        """Refuse other genotypes than :func:`read_cells` takes; a path is left for when files are looked at."""
        check_multiplier(nodes, multiplier)
        if not is_genotype_path(genotype):
            read_cells(genotype, nodes, multiplier)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return self.frame_settings() | {
            "auxiliary": self.auxiliary is not None,
            "genotype": self.genotype.to_json()["genotype"],
        }

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
