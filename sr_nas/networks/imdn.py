"""The candidates that may replace a 3x3 convolution of an IMD block (SA-DARTS, section 4.4.1).

A candidate is a function of its input and output channels. To add one, register a function here and name it under
``network_g.candidates`` in an option file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.contracts import SRNetwork
from sr_nas.genotype import Choice, GenotypeLike, genotype_from, is_genotype_path
from sr_nas.ops.attention import ContrastAwareChannelAttention
from sr_nas.registry import NETWORKS, Registry

IMDN_CANDIDATES: Registry = Registry("IMDN candidate", "sr_nas.networks.imdn")


def convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    """Dense convolution that keeps height and width; with bias."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)


def depthwise_separable(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Module:
    """Depthwise convolution, then a pointwise one. Both carry a bias: only so do the paper's parameter counts come out."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=in_channels),
        nn.Conv2d(in_channels, out_channels, 1),
    )


def followed_by_batch_norm(module: nn.Module, out_channels: int) -> nn.Module:
    """The module with an affine BatchNorm behind it."""
    parts = list(module) if isinstance(module, nn.Sequential) else [module]
    return nn.Sequential(*parts, nn.BatchNorm2d(out_channels))


@IMDN_CANDIDATES.register()
def conv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 3)


@IMDN_CANDIDATES.register()
def conv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return convolution(in_channels, out_channels, 5)


@IMDN_CANDIDATES.register()
def dsconv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 3)


@IMDN_CANDIDATES.register()
def dsconv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 5)


@IMDN_CANDIDATES.register()
def dil_dsconv_3x3(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 3, dilation=2)


@IMDN_CANDIDATES.register()
def dil_dsconv_5x5(in_channels: int, out_channels: int) -> nn.Module:
    return depthwise_separable(in_channels, out_channels, 5, dilation=2)


@IMDN_CANDIDATES.register()
def conv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(conv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def conv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(conv_5x5(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dsconv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dsconv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dsconv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dsconv_5x5(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dil_dsconv_3x3_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dil_dsconv_3x3(in_channels, out_channels), out_channels)


@IMDN_CANDIDATES.register()
def dil_dsconv_5x5_bn(in_channels: int, out_channels: int) -> nn.Module:
    return followed_by_batch_norm(dil_dsconv_5x5(in_channels, out_channels), out_channels)


# MERGED sr_nas.networks.imdn: IMDN: Information Multi-distillation Network (Hui et al., ACM MM 2019), with any
# genotype in its blocks.


Features = Annotated[int, Field(ge=16, multiple_of=4, description="feature channels; the published network has 64")]
Blocks = Annotated[int, Field(ge=1, description="information multi-distillation blocks; the published network has 6")]

LABELS = ("conv1", "conv2", "conv3", "conv4")
PUBLISHED = ("conv_3x3",) * 4
NEGATIVE_SLOPE = 0.05


def conv_channels(nf: int) -> tuple[tuple[int, int], ...]:
    """Input and output channels of the four searched convolutions of a block: a quarter is distilled at each step."""
    distilled, remaining = nf // 4, nf - nf // 4
    return ((nf, nf), (remaining, nf), (remaining, nf), (remaining, distilled))


class IMDBlock(nn.Module):
    """Information multi-distillation block: three splits, four convolutions, attention, fusion, residual.

    Args:
        convs: four modules with the channels of :func:`conv_channels`.
        nf: channels of the input and output.
    """

    def __init__(self, convs: Iterable[nn.Module], nf: int) -> None:
        super().__init__()
        self.distilled = nf // 4
        self.convs = nn.ModuleList(convs)
        self.attention = ContrastAwareChannelAttention(4 * self.distilled)
        self.fuse = nn.Conv2d(4 * self.distilled, nf, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, nf, H, W]`` to the same shape."""
        return self.distill(x, self.convs)

    def distill(self, x: Tensor, convs: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Run the block with the given four functions as its convolutions."""
        *splitting, last = convs
        kept, remaining = [], x
        for conv in splitting:
            features = F.leaky_relu(conv(remaining), NEGATIVE_SLOPE)
            distilled, remaining = features.split((self.distilled, features.shape[1] - self.distilled), dim=1)
            kept.append(distilled)
        kept.append(last(remaining))
        return self.fuse(self.attention(torch.cat(kept, dim=1))) + x


class IMDNFrame(nn.Module):
    """Everything of IMDN but the four searched convolutions of its blocks.

    Args:
        scale: upscaling factor.
        nf: feature channels.
        num_blocks: number of blocks.
        build_conv: (label, input channels, output channels) -> the module of that position.
    """

    def __init__(self, scale: int, nf: int, num_blocks: int, build_conv: Callable[[str, int, int], nn.Module]) -> None:
        super().__init__()
        self.scale, self.nf, self.num_blocks = scale, nf, num_blocks
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.blocks: Iterable[IMDBlock] = nn.ModuleList(  # type: ignore[assignment]
            IMDBlock([build_conv(label, *channels) for label, channels in zip(LABELS, conv_channels(nf), strict=True)], nf)
            for _ in range(num_blocks)
        )
        self.fuse = nn.Conv2d(nf * num_blocks, nf, 1)
        self.body = nn.Conv2d(nf, nf, 3, padding=1)
        self.tail = nn.Conv2d(nf, 3 * scale**2, 3, padding=1)

    def reconstruct(self, x: Tensor, blocks: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
        """Run the network with the given functions as its blocks."""
        shallow = features = self.head(x)
        outputs = []
        for block in blocks:
            features = block(features)
            outputs.append(features)
        fused = F.leaky_relu(self.fuse(torch.cat(outputs, dim=1)), NEGATIVE_SLOPE)
        return F.pixel_shuffle(self.tail(self.body(fused) + shallow), self.scale)


@NETWORKS.register()
class IMDN(IMDNFrame, SRNetwork):
    """IMDN (Hui et al. 2019) with the convolutions of a genotype; by default the published network.

    Args:
        scale: upscaling factor, 2, 3 or 4.
        nf: feature channels.
        num_blocks: number of blocks.
        genotype: four candidate names for the convolutions of every block (list, mapping or :class:`Genotype`).

    Raises:
        GenotypeError: a genotype that this network does not have.
    """

    arch = "IMDN"

    def __init__(self, scale: int = 4, nf: Features = 64, num_blocks: Blocks = 6, genotype: GenotypeLike = PUBLISHED) -> None:
        picked = genotype_from(genotype, self.arch, self.choices())
        super().__init__(scale, nf, num_blocks, lambda label, *channels: IMDN_CANDIDATES.get(picked[label][0])(*channels))
        self.genotype = picked

    @staticmethod
    def choices() -> dict[str, Choice]:
        """``conv1`` to ``conv4``: every candidate may stand there."""
        return {label: Choice(tuple(IMDN_CANDIDATES.names())) for label in LABELS}

    @staticmethod
    def check(genotype: Any = PUBLISHED, **_: Any) -> None:
        """Refuse a genotype of other names than :meth:`choices`; a path is left for when files are looked at."""
        if not is_genotype_path(genotype):
            genotype_from(genotype, IMDN.arch, IMDN.choices())

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return {"scale": self.scale, "nf": self.nf, "num_blocks": self.num_blocks, "genotype": self.genotype.names}

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 to ``[N, 3, scale*H, scale*W]``."""
        return self.reconstruct(x, self.blocks)
