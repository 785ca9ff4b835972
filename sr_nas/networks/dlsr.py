"""DLSR (Huang et al. 2021, arXiv 2105.03939) with any genotype, and its candidate operations.

A candidate is a function of its input and output channels. To add one, register a function here and name it under
``network_g.candidates`` in an option file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import Diagram, Edge, Node, SRNetwork, arrows
from sr_nas.genotype import JOINT, Choice, Genotype, GenotypeError, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.networks.imdn import upscaler_diagram
from sr_nas.registry import NETWORKS, Registry

Features = Annotated[int, Ge(8), Le(4096), MultipleOf(2)]
Cells = Annotated[int, Ge(2), Le(1000)]

OPERATIONS = ("op1", "op2", "op3")
# The genotype and the links of the released DLSR_para_loss_x2.pt.
PUBLISHED = (
    *("sep_conv_3x3", "sep_conv_5x5", "sep_conv_5x5"),
    *("cell2+cell1", "cell3+cell2", "cell4+cell3", "cell1+cell3"),
)
PUBLISHED_CELLS = 6

DLSR_CANDIDATES = Registry("DLSR candidate", "sr_nas.networks.dlsr")

# No candidate has a bias or a BatchNorm, and the depthwise ones begin with a ReLU: only so do released weights load and the
# paper's parameter counts come out.


def convolution(in_channels: int, out_channels: int, *, kernel: int) -> nn.Module:
    """Dense convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)


def dilated(in_channels: int, out_channels: int, *, kernel: int, dilation: int = 2) -> nn.Sequential:
    """ReLU, depthwise convolution with gaps, pointwise convolution."""
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(in_channels, in_channels, kernel, padding=padding, dilation=dilation, groups=in_channels, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False))


def separable(in_channels: int, out_channels: int, *, kernel: int) -> nn.Module:
    """ReLU, depthwise and pointwise convolution, twice (DARTS, Liu et al. 2019)."""
    first = dilated(in_channels, in_channels, kernel=kernel, dilation=1)
    return nn.Sequential(*first, *dilated(in_channels, out_channels, kernel=kernel, dilation=1))


_PAPER: dict[str, Callable[[int, int], nn.Module]] = {
    **{f"conv_{kernel}x{kernel}": partial(convolution, kernel=kernel) for kernel in (1, 3, 5, 7)},
    **{f"sep_conv_{kernel}x{kernel}": partial(separable, kernel=kernel) for kernel in (3, 5, 7)},
    **{f"dil_conv_{kernel}x{kernel}": partial(dilated, kernel=kernel) for kernel in (3, 5)},
}
for _name, _build in _PAPER.items():
    DLSR_CANDIDATES.register(_name)(_build)

DLSR_OPERATIONS = tuple(_PAPER)
"""The paper's nine candidates, the default of the search space. Registering another operation does not change it."""

_leaky_relu = partial(F.leaky_relu, negative_slope=0.05)


def input_choices(num_cells: int) -> dict[str, Choice]:
    """``inputs3``, ``inputs4``, ...: every cell from the third on reads two of all earlier cells."""
    cells = [f"cell{number}" for number in range(1, num_cells + 1)]
    return {f"inputs{number}": Choice(tuple(cells[: number - 1]), 2, "inputs") for number in range(3, num_cells + 1)}


def with_inputs(genotype: Any, num_cells: int) -> Any:
    """Complete a genotype of three operations, as papers print it: each cell from the third on reads the two before it.

    Anything else is returned unchanged, except the published (default) genotype for another number of cells, which is refused.
    """
    if isinstance(genotype, Mapping) and genotype.get("arch") == DLSR.arch and "genotype" in genotype:
        return dict(genotype) | {"genotype": with_inputs(genotype["genotype"], num_cells)}
    if genotype == PUBLISHED and num_cells != PUBLISHED_CELLS:
        raise GenotypeError(
            f"the published genotype is of {PUBLISHED_CELLS} cells. With num_cells {num_cells} name one, for example "
            f"{', '.join(PUBLISHED[: len(OPERATIONS)])}."
        )
    names = genotype.split(",") if isinstance(genotype, str) else genotype
    if isinstance(names, Sequence) and len(names) == len(OPERATIONS):
        return [*names, *(JOINT.join(choice.candidates[:-3:-1]) for choice in input_choices(num_cells).values())]
    return genotype


class EnhancedSpatialAttention(nn.Module):
    """Scale every pixel by a gate that sees a wide neighbourhood through strides (RFANet and RFDN, Liu et al. 2020).

    The strided path does not pad, so it needs 15 pixels a side (a 3x3 convolution of stride 2 then leaves one window for the 7x7
    pooling). Smaller inputs are widened by repeating their border. The gate's hidden layers have ``hidden`` channels, by
    default a quarter of ``channels``.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels // 4
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.skip = nn.Conv2d(hidden, hidden, 1)
        self.stride = nn.Conv2d(hidden, hidden, 3, stride=2)
        self.wide = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
        )
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, ``[N, C, H, W]``."""
        height, width = x.shape[2:]
        reduced = self.reduce(x)
        strided = self.stride(_padded(reduced))
        wide = self.wide(F.max_pool2d(strided, kernel_size=7, stride=3))
        wide = F.interpolate(wide, (height, width), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(wide + self.skip(reduced)))


def _padded(x: Tensor, side: int = 15) -> Tensor:
    height, width = x.shape[2:]
    # PyTorch tells export from compilation since 2.7, which is also the first that our export takes.
    exporting = hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()
    if not exporting and not torch.onnx.is_in_onnx_export() and height >= side and width >= side:
        return x
    # An exported graph cannot branch on the size: there, large inputs are widened by nothing. A tracer's sizes are tensors.
    right, below = ((side - n).clamp(min=0) if isinstance(n, Tensor) else torch.sym_max(side - n, 0) for n in (width, height))
    return F.pad(x, (0, right, 0, below), mode="replicate")  # type: ignore[arg-type]


class DLSRCell(nn.Module):
    """Residual feature distillation (RFDN, Liu et al. 2020): three residual operations, each distilled before it runs."""

    def __init__(self, ops: Iterable[nn.Module], nf: int) -> None:
        super().__init__()
        distilled = nf // 2
        self.ops = nn.ModuleList(ops)
        self.distill = nn.ModuleList(nn.Conv2d(nf, distilled, 1) for _ in self.ops)
        self.last = nn.Conv2d(nf, distilled, 3, padding=1)
        self.fuse = nn.Conv2d(distilled * (len(self.ops) + 1), nf, 1)
        self.attention = EnhancedSpatialAttention(nf)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, nf, H, W]`` to the same shape."""
        return self.run(x, self.ops)

    def run(self, x: Tensor, ops: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Run the cell with the given functions as its operations."""
        distilled = []
        for op, distill in zip(ops, self.distill, strict=True):
            distilled.append(_leaky_relu(distill(x)))
            x = _leaky_relu(op(x) + x)
        distilled.append(_leaky_relu(self.last(x)))
        return self.attention(self.fuse(torch.cat(distilled, dim=1)))


class DLSRFrame(nn.Module):
    """DLSR without the operations and inputs of its cells: what the network and the supernet share.

    ``build_op`` maps (label, input channels, output channels) to the module of that position. With ``joins_all``, cells join
    all earlier ones, as in the supernet; else two of them.
    """

    def __init__(
        self, scale: int, nf: int, num_cells: int, build_op: Callable[[str, int, int], nn.Module], joins_all: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.nf, self.num_cells = scale, nf, num_cells
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.cells = nn.ModuleList(DLSRCell([build_op(label, nf, nf) for label in OPERATIONS], nf) for _ in range(num_cells))
        fan_in = {
            label: len(choice.candidates) if joins_all else choice.picks for label, choice in input_choices(num_cells).items()
        }
        self.joins = nn.ModuleDict({label: nn.Conv2d(nf * count, nf, 1) for label, count in fan_in.items()})
        self.fuse = nn.Conv2d(nf * num_cells, nf, 1)
        self.body = nn.Conv2d(nf, nf, 3, padding=1)
        self.tail = nn.Conv2d(nf, 3 * scale**2, 3, padding=1)

    def reconstruct(
        self, x: Tensor, cells: Iterable[Callable[[Tensor], Tensor]], inputs: Callable[[str, list[Tensor]], list[Tensor]]
    ) -> Tensor:
        """Upscale ``[N, 3, H, W]`` with the given functions as cells.

        ``inputs`` maps (label, outputs of all earlier cells) to the tensors that the cell joins, ``nf`` channels each.
        """
        first, second, *later = cells
        shallow = self.head(x)
        outputs = [first(shallow)]
        outputs.append(second(outputs[0]))
        for (label, join), cell in zip(self.joins.items(), later, strict=True):
            outputs.append(cell(_leaky_relu(join(torch.cat(inputs(label, outputs), dim=1)))))
        fused = _leaky_relu(self.fuse(torch.cat(outputs, dim=1)))
        return F.pixel_shuffle(self.tail(self.body(fused) + shallow), self.scale)

    @property
    def blocks(self) -> nn.ModuleList:
        """The cells, whose operations are searched."""
        return self.cells

    def frame_settings(self) -> dict[str, int]:
        """The constructor's arguments, without the operations and inputs."""
        return {"scale": self.scale, "nf": self.nf, "num_cells": self.num_cells}

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """A cell with its operations, and the links between cells."""
        nf, part = self.nf, self.nf // 2
        nodes, edges, source = {"input": Node("input", f"{nf} channels", "data")}, [], "input"
        for number, label in enumerate(OPERATIONS, 1):
            nodes |= {label: Node(genotype[label][0], f"{label}: {nf} → {nf}", "searched"), f"sum{number}": Node("+")}
            edges += [Edge(source, "concat", f"1x1, {part}"), Edge(source, f"sum{number}", side=-1)]
            source = f"sum{number}"
        nodes |= {
            "last": Node("conv 3x3", f"{nf} → {part}"),
            "concat": Node("concatenation", f"{len(OPERATIONS) + 1} x {part}"),
            "fuse": Node("conv 1x1", f"{(len(OPERATIONS) + 1) * part} → {nf}"),
            "attention": Node("ESA", "enhanced spatial attention"),
            "output": Node("output", f"{nf} channels", "data"),
        }
        cells = {f"cell{number}": Node(f"cell {number}", look="searched") for number in range(1, self.num_cells + 1)}
        links = arrows("cell1", "cell2")
        links += [Edge(name, f"cell{label[6:]}", side=-1) for label in self.joins for name in genotype[label]]
        joined = "from cell 3 on, what a cell reads is joined by a 1x1 convolution"
        rectified = f"a LeakyReLU follows each sum and each part of {part} channels"
        return [
            Diagram("each cell", nodes, [*arrows(*nodes), *edges], rectified),
            upscaler_diagram(self.scale, nf, cells, links, joined),
        ]


@NETWORKS.register()
class DLSR(DLSRFrame, SRNetwork):
    """DLSR (Huang et al. 2021) with the operations and links of a genotype; by default the released network.

    Args:
        scale: upscaling factor, 2, 3 or 4.
        nf: feature channels; the published networks have 48 and 18.
        num_cells: cells; the published networks have 6.
        genotype: three candidate names for the operations of every cell, then for each cell from the third on the two
            earlier cells it reads, such as ``"cell2+cell1"``; three names alone let each read the two cells before it.
    """

    arch = "DLSR"

    def __init__(
        self, scale: int = 2, nf: Features = 48, num_cells: Cells = PUBLISHED_CELLS, genotype: GenotypeLike = PUBLISHED
    ) -> None:
        checked = genotype_from(with_inputs(genotype, num_cells), self.arch, self.choices(num_cells))
        super().__init__(scale, nf, num_cells, lambda label, *channels: DLSR_CANDIDATES.get(checked[label][0])(*channels))
        self.genotype = checked

    @staticmethod
    def choices(num_cells: int = PUBLISHED_CELLS) -> dict[str, Choice]:
        """``op1`` to ``op3``: every registered candidate may stand there; then the inputs of the cells."""
        operations = {label: Choice(tuple(DLSR_CANDIDATES.names())) for label in OPERATIONS}
        return operations | input_choices(num_cells)

    @staticmethod
    def check(num_cells: int = PUBLISHED_CELLS, genotype: Any = PUBLISHED, **_: Any) -> None:
        """Refuse a genotype of other names; a path has not been read yet and passes."""
        if not is_genotype_path(genotype):
            genotype_from(with_inputs(genotype, num_cells), DLSR.arch, DLSR.choices(num_cells))

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return self.frame_settings() | {"genotype": self.genotype.to_json()["genotype"]}

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``."""
        return self.reconstruct(x, self.cells, self._selected)

    def _selected(self, label: str, outputs: list[Tensor]) -> list[Tensor]:
        names = input_choices(self.num_cells)[label].candidates
        return [outputs[names.index(name)] for name in self.genotype[label]]
