"""The operations and genotypes of the DARTS space (Liu et al. 2019), with the noise of its reduced space S4 (Zela et al. 2020).

A candidate is a function of its channels, its stride (1, or 2 to halve height and width, rounded up) and whether its BatchNorm is
affine. To add one, register a function here and name it under ``network_g.candidates`` in an option file.

A genotype names two edges for each node, written ``sep_conv_3x3~0+skip_connect~1`` as in the strings of NAS-Bench-201: operation,
then the node that it reads. 0 and 1 are the outputs of the cell before last and of the last cell, 2 and on the cell's own nodes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import Diagram, Edge, Node
from sr_nas.genotype import Choice, Genotype, GenotypeError, genotype_from
from sr_nas.ops.depthwise import depthwise
from sr_nas.registry import Registry

CellBuilder = Callable[[int, int, bool], nn.Module]
"""(channels, stride, affine) -> candidate."""

DARTS_CANDIDATES = Registry("DARTS candidate", "sr_nas.classification.darts_operations")

ARCH = "DARTS"
KINDS = ("normal", "reduce")
FIRST_NODE = 2
READS = 2
"""How many earlier nodes a node of a derived network reads."""

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


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set whole samples to zero and scale the others so that the expectation stays (Larsson et al. 2017).

    ``x * mask / (1 - probability)`` for ``[N, C, H, W]``, with one draw of torch's generator per sample; ``x`` itself at 0.
    """
    if not probability:
        return x
    keep = 1 - probability
    # bernoulli_ would take the changing probability as a constant, for which a compiled network is compiled anew every epoch.
    return x * ((torch.rand(x.shape[0], 1, 1, 1, device=x.device) < keep).to(x.dtype) / keep)


def relu_conv_bn(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, affine: bool = True) -> nn.Sequential:
    """ReLU, convolution without bias, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


class FactorizedReduce(nn.Module):
    """ReLU, two pointwise convolutions of stride 2, one of them shifted by a pixel down and right, joined, BatchNorm.

    It halves height and width, rounded up, and reads every diagonal of an even size.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = nn.Conv2d(in_channels, half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, ceil(H/2), ceil(W/2)]``."""
        x = F.relu(x)
        # The row and column of zeros are read where a side is odd; an even side never reaches them.
        shifted = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        return self.norm(torch.cat((self.even(x), self.odd(shifted)), dim=1))


class SeparableConv(nn.Sequential):
    """ReLU, depthwise convolution with an odd kernel, pointwise convolution, both without bias, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to ``[N, channels, ceil(H/stride), ceil(W/stride)]``."""
        relu, depth, pointwise, norm = self
        x, first = relu(x), cast(nn.Conv2d, depth)
        # Gradients that are faster on a CPU; in eval mode it is PyTorch's own convolution, which counters and exporters know.
        fast = self.training and first.stride == (1, 1)
        x = depthwise(x, first.weight, first.bias, first.dilation[0]) if fast else first(x)
        return norm(pointwise(x))


class Zero(nn.Module):
    """Zeros of the size that a convolution of this stride returns."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to zeros, ``[N, C, ceil(H/stride), ceil(W/stride)]``."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Standard normal noise instead of the input, drawn anew each time, in eval mode too."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to noise, ``[N, C, ceil(H/stride), ceil(W/stride)]``."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


def _twice_separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(SeparableConv(channels, kernel, stride, 1, affine), SeparableConv(channels, kernel, 1, 1, affine))


_PAPER: dict[str, CellBuilder] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": lambda channels, stride, affine: (
        nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    ),
    "sep_conv_3x3": lambda channels, stride, affine: _twice_separable(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: _twice_separable(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: SeparableConv(channels, 3, stride, 2, affine),
    "dil_conv_5x5": lambda channels, stride, affine: SeparableConv(channels, 5, stride, 2, affine),
}
for _name, _build in _PAPER.items():
    DARTS_CANDIDATES.register(_name)(_build)
DARTS_CANDIDATES.register("noise")(lambda channels, stride, affine: Noise(stride))

DARTS_OPERATIONS = tuple(_PAPER)
"""The eight operations of the DARTS paper, in the order of its tables. Registering another one does not change them."""


def node_range(nodes: int) -> range:
    """Numbers of the nodes of a cell."""
    return range(FIRST_NODE, FIRST_NODE + nodes)


def edges(nodes: int) -> list[tuple[int, int]]:
    """(node, node that it reads) of every edge of a cell: 14 for four nodes."""
    return [(node, source) for node in node_range(nodes) for source in range(node)]


def pick(operation: str, source: int) -> str:
    """Name of a selected edge, such as ``sep_conv_3x3~0``."""
    return f"{operation}~{source}"


def operation_and_source(name: str) -> tuple[str, int]:
    """Take apart what :func:`pick` made."""
    operation, _, source = name.rpartition("~")
    return operation, int(source)


def node_choices(nodes: int = 4) -> dict[str, Choice]:
    """``normal2``, ``normal3``, ..., ``reduce2``, ...: two of the earlier nodes, each by any operation; none reads nothing."""
    operations = DARTS_CANDIDATES.names()
    return {
        f"{kind}{node}": Choice(tuple(pick(operation, source) for source in range(node) for operation in operations), READS)
        for kind in KINDS
        for node in node_range(nodes)
    }


def cell_diagram(kind: str, note: str, genotype: Genotype, nodes: int, multiplier: int) -> Diagram:
    """Return the diagram of a cell: its two inputs, its nodes, and the edges that a genotype has, two or more for each node."""
    inner = node_range(nodes)
    drawn = {"0": Node("0: cell k-2", look="data"), "1": Node("1: cell k-1", look="data")}
    drawn |= {str(node): Node(str(node)) for node in inner} | {"joined": Node("joined", look="data")}
    arrows = [Edge(str(node), "joined") for node in inner[-multiplier:]]
    for node in inner:
        for operation, source in map(operation_and_source, genotype[f"{kind}{node}"]):
            arrows.append(Edge(str(source), str(node), operation, "searched", 1 if source % 2 else -1))
    halving = "; arrows from 0 and 1 halve height and width" * (kind == "reduce")
    return Diagram(f"{kind} cell", drawn, arrows, f"{note}; a node is the sum of its arrows{halving}", in_a_row=True)


def read_cells(source: Any, nodes: int, multiplier: int) -> Genotype:
    """Read a genotype of two cells.

    Args:
        source: what :func:`sr_nas.genotype.genotype_from` takes; a name of :data:`PUBLISHED`; or the form of public code, as a
            text such as ``"Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., ...)"`` or as a
            mapping with its keys. A text is parsed and never run.
        nodes: nodes of a cell.
        multiplier: how many of them, the last, are a cell's output.

    Raises:
        GenotypeError: it has none of these forms, does not fit such a cell, or a node reads one earlier node twice.
    """
    if isinstance(source, str):
        source = PUBLISHED.get(source.strip(), source)
        if "(" in source:
            source = _parse(source)
    if isinstance(source, Mapping) and set(KINDS) <= set(source):
        source = _from_public(source, nodes, multiplier)
    genotype = genotype_from(source, ARCH, node_choices(nodes))
    for label, names in genotype.picks:
        if len({operation_and_source(name)[1] for name in names}) < READS:
            raise GenotypeError(f"{ARCH}.{label} reads {READS} different nodes; given: {' and '.join(names)}.")
    return genotype


def _parse(text: str) -> dict[str, Any]:
    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
            return range(*(ast.literal_eval(argument) for argument in node.args))
        return ast.literal_eval(node)

    try:
        (statement,) = ast.parse(text.strip()).body
        call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
        if not isinstance(call, ast.Call) or call.args or not ast.unparse(call.func).endswith("Genotype"):
            raise ValueError("a call of Genotype with named fields is expected")
        return {str(field.arg): value(field.value) for field in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"this is not of the form {PUBLIC_FORM}: {error}") from error


def _from_public(fields: Mapping[str, Any], nodes: int, multiplier: int) -> dict[str, list[str]]:
    picks: dict[str, list[str]] = {}
    outputs = node_range(nodes)[-multiplier:]
    for kind in KINDS:
        concat = fields.get(f"{kind}_concat", outputs)
        # The length first: a text may hold a range that no list has room for.
        if not isinstance(concat, (range, Sequence)) or len(concat) != len(outputs) or list(concat) != list(outputs):
            raise GenotypeError(f"{kind}_concat is {concat!r}, and the output of this network's cells is {list(outputs)}.")
        names = []
        for edge in fields[kind] if isinstance(fields[kind], Iterable) else ():
            match edge:
                case [str(operation), int(source)]:
                    names.append(pick(operation, source))
                case _:
                    raise GenotypeError(f"an edge of {kind} is a pair such as ('sep_conv_3x3', 0), not {edge!r}.")
        if len(names) != READS * nodes:
            raise GenotypeError(f"{kind} has {len(names)} edges; with {nodes} nodes a cell keeps {READS * nodes}.")
        picks |= {f"{kind}{FIRST_NODE + place}": names[READS * place : READS * (place + 1)] for place in range(nodes)}
    return picks
