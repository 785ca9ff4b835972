"""IMDN (Hui et al., ACM MM 2019) with any genotype in its blocks, and the candidate operations of SA-DARTS (section 4.4.1).

A candidate is a function of its input and output channels. To add one, register a function here and name it under
``network_g.candidates`` in an option file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import Diagram, Edge, Node, SRNetwork, arrows
from sr_nas.genotype import Choice, Genotype, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.registry import NETWORKS, Registry

Features = Annotated[int, Ge(8), Le(4096), MultipleOf(4)]
Blocks = Annotated[int, Ge(1), Le(1000)]

LABELS = ("conv1", "conv2", "conv3", "conv4")
PUBLISHED = ("conv_3x3",) * 4
NEGATIVE_SLOPE = 0.05

IMDN_CANDIDATES = Registry("IMDN candidate", "sr_nas.networks.imdn")


def convolution(
    in_channels: int, out_channels: int, *, kernel: int, separable: bool = False, dilation: int = 1, norm: bool = False
) -> nn.Module:
    """A convolution that keeps height and width, dense or depthwise-separable, with a BatchNorm behind it or none.

    Both halves of a separable one carry a bias: only this convention gives the paper's parameter counts.
    """
    padding = dilation * (kernel // 2)
    layers: list[nn.Module]
    if separable:
        depthwise = nn.Conv2d(in_channels, in_channels, kernel, padding=padding, dilation=dilation, groups=in_channels)
        layers = [depthwise, nn.Conv2d(in_channels, out_channels, 1)]
    else:
        layers = [nn.Conv2d(in_channels, out_channels, kernel, padding=padding)]
    if norm:
        layers.append(nn.BatchNorm2d(out_channels))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


_SHAPES: dict[str, dict[str, Any]] = {"conv": {}, "dsconv": {"separable": True}, "dil_dsconv": {"separable": True, "dilation": 2}}
_PAPER: dict[str, Callable[[int, int], nn.Module]] = {
    f"{shape}_{kernel}x{kernel}{suffix}": partial(convolution, kernel=kernel, norm=suffix == "_bn", **arguments)
    for suffix in ("", "_bn")
    for shape, arguments in _SHAPES.items()
    for kernel in (3, 5)
}
for _name, _build in _PAPER.items():
    IMDN_CANDIDATES.register(_name)(_build)

IMDN_OPERATIONS = tuple(_PAPER)
"""The paper's twelve candidates, the default of the search space. Registering another operation does not change it."""


def conv_channels(nf: int) -> tuple[tuple[int, int], ...]:
    """Input and output channels of the four searched convolutions of a block: a quarter is distilled at each step."""
    distilled, remaining = nf // 4, nf - nf // 4
    return ((nf, nf), (remaining, nf), (remaining, nf), (remaining, distilled))


class ContrastAwareChannelAttention(nn.Module):
    """Scale every channel by a gate of its standard deviation plus its mean over the whole image (IMDN, section 3.3)."""

    pools_globally = True

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, ``[N, C, H, W]``."""
        mean = F.adaptive_avg_pool2d(x, 1)
        # On the CPU, torch.var takes 15 times as long.
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        # The root's slope is infinite at 0, where a constant channel would turn every gradient into NaN.
        contrast = variance.clamp_min(1e-12).sqrt()
        return x * self.gate(contrast + mean)


class IMDBlock(nn.Module):
    """Block of four convolutions with the channels of :func:`conv_channels`: three splits, attention, fusion, residual."""

    def __init__(self, convs: Iterable[nn.Module], nf: int) -> None:
        super().__init__()
        self.distilled = nf // 4
        self.convs = nn.ModuleList(convs)
        self.attention = ContrastAwareChannelAttention(4 * self.distilled)
        self.fuse = nn.Conv2d(4 * self.distilled, nf, 1)

    @property
    def ops(self) -> nn.ModuleList:
        """The searched operations."""
        return self.convs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, nf, H, W]`` to the same shape."""
        return self.run(x, self.convs)

    def run(self, x: Tensor, ops: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Run the block with other functions as its four convolutions."""
        *splitting, last = ops
        distilled, remaining = [], x
        for conv in splitting:
            features = F.leaky_relu(conv(remaining), NEGATIVE_SLOPE)
            part, remaining = features.split((self.distilled, features.shape[1] - self.distilled), dim=1)
            distilled.append(part)
        distilled.append(last(remaining))
        return self.fuse(self.attention(torch.cat(distilled, dim=1))) + x


class IMDNFrame(nn.Module):
    """IMDN without its searched convolutions: what the network and the supernet share.

    ``build_op`` maps (label, input channels, output channels) to the module of that position.
    """

    def __init__(self, scale: int, nf: int, num_blocks: int, build_op: Callable[[str, int, int], nn.Module]) -> None:
        super().__init__()
        self.scale, self.nf, self.num_blocks = scale, nf, num_blocks
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.blocks = nn.ModuleList(
            IMDBlock([build_op(label, *channels) for label, channels in zip(LABELS, conv_channels(nf), strict=True)], nf)
            for _ in range(num_blocks)
        )
        self.fuse = nn.Conv2d(nf * num_blocks, nf, 1)
        self.body = nn.Conv2d(nf, nf, 3, padding=1)
        self.tail = nn.Conv2d(nf, 3 * scale**2, 3, padding=1)

    def reconstruct(self, x: Tensor, blocks: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Upscale ``[N, 3, H, W]`` with the given functions as blocks."""
        shallow = features = self.head(x)
        outputs = []
        for block in blocks:
            features = block(features)
            outputs.append(features)
        fused = F.leaky_relu(self.fuse(torch.cat(outputs, dim=1)), NEGATIVE_SLOPE)
        return F.pixel_shuffle(self.tail(self.body(fused) + shallow), self.scale)

    def frame_settings(self) -> dict[str, int]:
        """The constructor's arguments, without the operations."""
        return {"scale": self.scale, "nf": self.nf, "num_blocks": self.num_blocks}

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """A block with its convolutions, and the chain of the blocks."""
        nf, part = self.nf, self.nf // 4
        convs = {
            label: Node(genotype[label][0], f"{label}: {before} → {after}", "searched")
            for label, (before, after) in zip(LABELS, conv_channels(nf), strict=True)
        }
        nodes = {
            "input": Node("input", f"{nf} channels", "data"),
            **convs,
            "concat": Node("concatenation", f"4 x {part}"),
            "attention": Node("contrast-aware attention"),
            "fuse": Node("conv 1x1", f"{4 * part} → {nf}"),
            "sum": Node("+"),
            "output": Node("output", f"{nf} channels", "data"),
        }
        going_on = [Edge(*pair, str(nf - part)) for pair in pairwise(LABELS)]
        distilled = [Edge(label, "concat", str(part)) for label in LABELS]
        edges = [*arrows("input", LABELS[0]), *going_on, *distilled, *arrows(*list(nodes)[5:]), Edge("input", "sum", side=-1)]
        blocks = {f"block{number}": Node(f"block {number}", look="searched") for number in range(1, self.num_blocks + 1)}
        return [
            Diagram("each block", nodes, edges, "a LeakyReLU follows conv1, conv2 and conv3"),
            upscaler_diagram(self.scale, nf, blocks, arrows(*blocks)),
        ]


def upscaler_diagram(scale: int, nf: int, blocks: Mapping[str, Node], links: Sequence[Edge], note: str = "") -> Diagram:
    """Return the diagram of a network that joins the outputs of all its blocks; ``links`` are the arrows between them."""
    nodes = {
        "lr": Node("LR image", look="data"),
        "head": Node("conv 3x3", f"3 → {nf}"),
        **blocks,
        "fuse": Node("conv 1x1", f"{len(blocks)} x {nf} → {nf}, LeakyReLU"),
        "body": Node("conv 3x3", f"{nf} → {nf}"),
        "sum": Node("+"),
        "tail": Node("conv 3x3", f"{nf} → {3 * scale**2}"),
        "shuffle": Node(f"pixel shuffle x{scale}"),
        "sr": Node("SR image", look="data"),
    }
    before, after = arrows("lr", "head", next(iter(blocks))), arrows("fuse", "body", "sum", "tail", "shuffle", "sr")
    outputs = [Edge(block, "fuse") for block in blocks]
    return Diagram("network", nodes, [*before, *links, *outputs, *after, Edge("head", "sum", side=-1)], note)


@NETWORKS.register()
class IMDN(IMDNFrame, SRNetwork):
    """IMDN (Hui et al. 2019) with the convolutions of a genotype; by default the published network.

    Args:
        scale: upscaling factor, 2, 3 or 4.
        nf: feature channels; the published network has 64.
        num_blocks: information multi-distillation blocks; the published network has 6.
        genotype: four candidate names for the convolutions of every block (list, mapping or :class:`Genotype`).
    """

    arch = "IMDN"

    def __init__(self, scale: int = 4, nf: Features = 64, num_blocks: Blocks = 6, genotype: GenotypeLike = PUBLISHED) -> None:
        checked = genotype_from(genotype, self.arch, self.choices())
        super().__init__(scale, nf, num_blocks, lambda label, *channels: IMDN_CANDIDATES.get(checked[label][0])(*channels))
        self.genotype = checked

    @staticmethod
    def choices() -> dict[str, Choice]:
        """``conv1`` to ``conv4``: every registered candidate may stand there."""
        return {label: Choice(tuple(IMDN_CANDIDATES.names())) for label in LABELS}

    @staticmethod
    def check(genotype: Any = PUBLISHED, **_: Any) -> None:
        """Refuse a genotype of other names; a path has not been read yet and passes."""
        if not is_genotype_path(genotype):
            genotype_from(genotype, IMDN.arch, IMDN.choices())

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return self.frame_settings() | {"genotype": self.genotype.names}

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``."""
        return self.reconstruct(x, self.blocks)
