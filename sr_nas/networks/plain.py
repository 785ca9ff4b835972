"""PLAIN: a chain of residual blocks of plain convolutions with almost parameter-free attention, and its candidates.

Networks of this kind are the fast ones of today: SPAN (Wan et al. 2024), RLFN (Kong et al. 2022), PlainUSR (Wang et al. 2024).
A candidate of a body is a function of its input channels, its output channels, and what builds an activation. A candidate of an
attention is a function of the channels, whose module maps (x, f), the input of the block and the body's result, to the output of
the block; a channel that is 0 in both stays 0. To add one, register a function here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import Diagram, Edge, Node, SRNetwork, arrows
from sr_nas.genotype import WIDTH, Choice, Genotype, GenotypeError, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.networks.dlsr import EnhancedSpatialAttention
from sr_nas.registry import NETWORKS, Registry

Features = Annotated[int, Ge(8), Le(4096), MultipleOf(4)]
Blocks = Annotated[int, Ge(1), Le(100)]
Activation = Literal["leaky_relu", "relu", "silu", "gelu"]
Pair = tuple[Tensor, Tensor]

UNIFORM = ("conv_3x3_2", "spab")
"""Body and attention of every block by default."""
SKIP = "skip"
"""Body that adds nothing: this is how depth is chosen. With an attention of no parameters the whole block is left out."""
FAINT = 0.1
"""Factor of the last convolution's random weights, so that a training begins near nearest-neighbour upscaling."""
WITHOUT_PARAMETERS = ("none", "spab")
"""Attentions that give x for f = 0."""
GATE = 16
"""Hidden channels of Enhanced Spatial Attention, as in RLFN; of every width the same."""

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "leaky_relu": partial(nn.LeakyReLU, 0.05),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}

PLAIN_CANDIDATES = Registry("PLAIN candidate", "sr_nas.networks.plain")
PLAIN_ATTENTIONS = Registry("PLAIN attention", "sr_nas.networks.plain")


class PartialConv(nn.Module):
    """3x3 convolution of every fourth channel among themselves; the others pass (FasterNet, Chen et al. 2023).

    Every fourth and not the first quarter, so that the first channels of a wide network are those of a narrow one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 4, channels // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        groups = x.unflatten(1, (-1, 4))
        return torch.cat((self.conv(groups[:, :, 0])[:, :, None], groups[:, :, 1:]), dim=2).flatten(1, 2)


class Zero(nn.Module):
    """A body that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def _depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


def chain(read: int, written: int, act: Callable[[], nn.Module], *, convolutions: int) -> nn.Sequential:
    """Dense 3x3 convolutions with activations between them."""
    layers: list[nn.Module] = [nn.Conv2d(read, written, 3, padding=1)]
    for _ in range(convolutions - 1):
        layers += [act(), nn.Conv2d(written, written, 3, padding=1)]
    return nn.Sequential(*layers)


def depthwise(read: int, written: int, act: Callable[[], nn.Module], *, kernel: int) -> nn.Sequential:
    """Pointwise convolution, activation, depthwise and pointwise convolution."""
    return nn.Sequential(nn.Conv2d(read, written, 1), act(), _depthwise(written, kernel), nn.Conv2d(written, written, 1))


def blueprint(read: int, written: int, act: Callable[[], nn.Module]) -> nn.Sequential:
    """Two blueprint separable convolutions, pointwise and then depthwise 3x3 (BSConv-U, Haase & Amthor 2020)."""
    first = nn.Conv2d(read, written, 1), _depthwise(written, 3)
    return nn.Sequential(*first, act(), nn.Conv2d(written, written, 1), _depthwise(written, 3))


def partial_convolution(read: int, written: int, act: Callable[[], nn.Module]) -> nn.Sequential:
    """3x3 convolution of a quarter of the channels, then pointwise, activation, pointwise (FasterNet, without expansion)."""
    return nn.Sequential(PartialConv(read), nn.Conv2d(read, written, 1), act(), nn.Conv2d(written, written, 1))


_BODIES: dict[str, Callable[..., nn.Module]] = {
    "conv_3x3_2": partial(chain, convolutions=2),
    "conv_3x3_3": partial(chain, convolutions=3),
    **{f"dwconv_{kernel}x{kernel}": partial(depthwise, kernel=kernel) for kernel in (3, 5, 7)},
    "bsconv_3x3_2": blueprint,
    "pconv_3x3": partial_convolution,
    SKIP: lambda read, written, act: Zero(),
}


class Residual(nn.Module):
    """No attention, ``x + f``."""

    def forward(self, pair: Pair) -> Tensor:
        """Return the sum of (x, f)."""
        return pair[0] + pair[1]


class ParameterFree(nn.Module):
    """``x + (x + f) (sigmoid(f) - 1/2)``: SPAN's block with its parameter-free attention (Wan et al. 2024, eq. 3), added to x."""

    def forward(self, pair: Pair) -> Tensor:
        """Return the block's output for (x, f)."""
        x, features = pair
        return x + (x + features) * (features.sigmoid() - 0.5)


class PixelAttention(nn.Module):
    """``s (1/2 + sigmoid(W s))`` of ``s = x + f`` with a pointwise W: pixel attention (PAN, Zhao et al. 2020), around 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, pair: Pair) -> Tensor:
        """Return the block's output for (x, f)."""
        total = pair[0] + pair[1]
        return total * (self.gate(total).sigmoid() + 0.5)


class SpatialAttention(nn.Module):
    """``s / 2 + ESA(s)`` of ``s = x + f``: Enhanced Spatial Attention with few hidden channels (RLFN), around 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = EnhancedSpatialAttention(channels, GATE)

    def forward(self, pair: Pair) -> Tensor:
        """Return the block's output for (x, f)."""
        total = pair[0] + pair[1]
        gated: Tensor = self.gate(total) + total / 2
        return gated


_ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: Residual(),
    "spab": lambda channels: ParameterFree(),
    "pa": PixelAttention,
    "esa": SpatialAttention,
}
for _registry, _entries in ((PLAIN_CANDIDATES, _BODIES), (PLAIN_ATTENTIONS, _ATTENTIONS)):
    for _name, _build in _entries.items():
        _registry.register(_name)(_build)

PLAIN_OPERATIONS, PLAIN_GATES = tuple(_BODIES), ("none", "spab", "pa")
"""Default candidates of the search space, of bodies and of attentions. Registering another one does not change them.

ESA is none of them: the grid of its strided convolution begins at the corner of each tile, so that tiles would differ from the
whole image.
"""


def labels_of(num_blocks: int, shared: bool) -> tuple[str, ...]:
    """Labels in the order in which the blocks run them: two that all blocks share, or two for every block."""
    if shared:
        return ("body", "attention")
    return tuple(f"{kind}{number}" for number in range(1, num_blocks + 1) for kind in ("body", "attention"))


def choices_of(bodies: Sequence[str], attentions: Sequence[str], num_blocks: int, shared: bool) -> dict[str, Choice]:
    """Choices of all blocks. A body that all share cannot be skipped."""
    bodies = [name for name in bodies if not (shared and name == SKIP)]
    return {label: Choice(tuple(bodies if label.startswith("body") else attentions)) for label in labels_of(num_blocks, shared)}


class PlainBlock(nn.Module):
    """``attention(x, body(x))``, which adds body and input."""

    def __init__(self, body: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.body, self.attention = body, attention

    @property
    def ops(self) -> tuple[nn.Module, nn.Module]:
        """The searched operations."""
        return self.body, self.attention

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, nf, H, W]`` to the same shape."""
        return self.run(x, self.ops)

    def run(self, x: Tensor, ops: Iterable[Callable[[Any], Tensor]]) -> Tensor:
        """Run the block with other functions as its body and attention."""
        body, attention = ops
        return attention((x, body(x)))


class PlainFrame(nn.Module):
    """PLAIN without its blocks: what the network and the supernet share."""

    def __init__(self, scale: int, nf: int, blocks: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.scale, self.nf = scale, nf
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.tail = nn.Conv2d(nf, 3 * scale**2, 3, padding=1)
        with torch.no_grad():
            for parameter in self.tail.parameters():
                parameter.mul_(FAINT)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``."""
        return self.reconstruct(x, self.blocks)

    def reconstruct(self, x: Tensor, blocks: Iterable[Callable[[Tensor], Tensor]], mask: Tensor | None = None) -> Tensor:
        """Upscale with the given functions as blocks, and the channels of the first features multiplied by a mask ``[nf]``."""
        features = self.head(x)
        if mask is not None:
            features = features * mask[:, None, None]
        for block in blocks:
            features = block(features)
        nearest = x.repeat_interleave(self.scale**2, dim=1)
        return F.pixel_shuffle(self.tail(features) + nearest, self.scale)

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """A block, and the chain of blocks, as wide as their channels and faint where they are left out."""
        nf, outputs = self.nf, 3 * self.scale**2
        block = {
            "input": Node("x", f"{nf} channels", "data"),
            "body": Node("body", "f", "searched"),
            "attention": Node("attention", "x + f, or gated", "searched"),
            "output": Node("output", f"{nf} channels", "data"),
        }
        names = [names[0] for label, names in genotype.picks if label != WIDTH]
        pairs = [*zip(names[::2], names[1::2], strict=True)]
        blocks = {
            f"block{number}": Node(body, f"{number}, left out", "faint", 1 + nf / 64)
            if body == SKIP and attention in WITHOUT_PARAMETERS
            else Node(body, f"{number}, attention: {attention}", "searched", 1 + nf / 64)
            for number, (body, attention) in enumerate(pairs * (len(self.blocks) // len(pairs)), 1)
        }
        nodes = {
            "lr": Node("LR image", look="data"),
            "head": Node("conv 3x3", f"3 → {nf}"),
            **blocks,
            "tail": Node("conv 3x3", f"{nf} → {outputs}"),
            "sum": Node("+"),
            "shuffle": Node(f"pixel shuffle x{self.scale}"),
            "sr": Node("SR image", look="data"),
        }
        return [
            Diagram("each block", block, [*arrows(*block), Edge("input", "attention", side=-1)]),
            Diagram("network", nodes, [*arrows(*nodes), Edge("lr", "sum", "nearest neighbour", side=-1)]),
        ]


@NETWORKS.register()
class PLAIN(PlainFrame, SRNetwork):
    """Chain of plain residual blocks with a pixel-shuffle head and a nearest-neighbour shortcut.

    Args:
        scale: upscaling factor, 2, 3 or 4.
        nf: feature channels; by default the width that the genotype names.
        num_blocks: blocks, those included that a genotype skips.
        shared: all blocks have one body and one attention; else each has its own.
        activation: between the convolutions of a body.
        genotype: width, where it was searched, then body and attention of each block, or one pair for all of them.
    """

    arch = "PLAIN"

    def __init__(
        self,
        scale: int = 2,
        nf: Features | None = None,
        num_blocks: Blocks = 6,
        shared: bool = False,
        activation: Activation = "leaky_relu",
        genotype: GenotypeLike = UNIFORM,
    ) -> None:
        checked = self._checked(nf, num_blocks, shared, genotype)
        nf = int(checked[WIDTH][0]) if WIDTH in dict(checked.picks) else nf or 32
        act, labels = ACTIVATIONS[activation], labels_of(num_blocks, shared)
        names = [checked[label][0] for label in labels] * (num_blocks if shared else 1)
        blocks = [
            nn.Identity()
            if body == SKIP and attention in WITHOUT_PARAMETERS
            else PlainBlock(PLAIN_CANDIDATES.get(body)(nf, nf, act), PLAIN_ATTENTIONS.get(attention)(nf))
            for body, attention in zip(names[::2], names[1::2], strict=True)
        ]
        super().__init__(scale, nf, blocks)
        self.num_blocks, self.shared, self.activation, self.genotype = num_blocks, shared, activation, checked

    @staticmethod
    def check(nf: int | None = None, num_blocks: int = 6, shared: bool = False, genotype: Any = UNIFORM, **_: Any) -> None:
        """Refuse a genotype of other names; a path has not been read yet and passes."""
        if not is_genotype_path(genotype):
            PLAIN._checked(nf, num_blocks, shared, genotype)

    @staticmethod
    def _checked(nf: int | None, num_blocks: int, shared: bool, genotype: Any) -> Genotype:
        choices = choices_of(PLAIN_CANDIDATES.names(), PLAIN_ATTENTIONS.names(), num_blocks, shared)
        if width := _width(genotype):
            if nf is not None and str(nf) != width:
                raise GenotypeError(f"the genotype is of width {width}, and nf is {nf}. Leave nf out.")
            sizes = tuple(str(size) for size in range(8, 4097, 4))
            choices = {WIDTH: Choice(sizes, of="widths")} | choices
        names = genotype.split(",") if isinstance(genotype, str) else genotype
        if isinstance(names, Sequence) and len(names) == bool(width) + 2:
            genotype = [*names[:-2], *list(names[-2:]) * (len(choices) // 2)]
        return genotype_from(genotype, PLAIN.arch, choices)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return {
            "scale": self.scale,
            "nf": self.nf,
            "num_blocks": self.num_blocks,
            "shared": self.shared,
            "activation": self.activation,
            "genotype": self.genotype.to_json()["genotype"],
        }


def _width(genotype: Any) -> str:
    """Return the width that a genotype begins with, in any form that :func:`sr_nas.genotype.genotype_from` takes, or ``""``."""
    if isinstance(genotype, Genotype):
        genotype = genotype.to_json()
    if isinstance(genotype, Mapping):
        picks = genotype.get("genotype", genotype)
        return str(picks.get(WIDTH, "")) if isinstance(picks, Mapping) else _width(picks)
    names = genotype.split(",") if isinstance(genotype, str) else list(genotype) if isinstance(genotype, Iterable) else []
    first = str(names[0]).strip() if names else ""
    return first if first.isdigit() else ""
