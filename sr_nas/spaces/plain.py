"""PLAIN search space: width of the trunk, and of every block a body, which may be none, and an attention."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, cast

import torch
from annotated_types import Len
from torch import Tensor, nn

from sr_nas.contracts import CostSite, CostSites, Weights
from sr_nas.genotype import WIDTH, Choice, Genotype
from sr_nas.networks.plain import (
    ACTIVATIONS,
    PLAIN,
    PLAIN_ATTENTIONS,
    PLAIN_CANDIDATES,
    PLAIN_GATES,
    PLAIN_OPERATIONS,
    SKIP,
    Activation,
    Blocks,
    Features,
    PlainBlock,
    PlainFrame,
    choices_of,
    labels_of,
)
from sr_nas.ops.fused import MIXED_OPS, Execution
from sr_nas.ops.mixed import MixedOp, PartialChannel, check_candidates, inherited_tensors
from sr_nas.registry import SPACES
from sr_nas.spaces.base import ChoiceSpace


class MaskedOp(MixedOp):
    """Mixed operation of a supernet that has all widths: ``weights`` are those of the candidates, then one for each channel.

    A candidate is a module or an ``nn.Sequential`` of layers that each keep its leading channels or act on every channel alone;
    behind each layer, channels are multiplied by their weights (FBNetV2, Wan et al. 2020). So the first w channels never see the
    others where these have weight 0, and compute what a network of width w does.
    """

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        of_candidates, channels = weights.split((len(self.candidates), self.out_channels))
        mask = channels.to(x)[:, None, None]
        return self._sum(of_candidates, [partial(_masked, candidate, x, mask) for candidate in self.candidates.values()])


def _masked(candidate: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    for layer in candidate if isinstance(candidate, nn.Sequential) else [candidate]:
        x = layer(x)
        if any(True for _ in layer.parameters()):  # of a channel that is 0, an activation is 0
            x = x * mask
    return x


@SPACES.register("PLAIN")
class PlainSpace(ChoiceSpace, PlainFrame):
    """PLAIN supernet: width, and for each block, or once for all, a body and an attention.

    With the default candidates and widths, and six blocks of their own choices, it holds 3 * (8 * 3)^6 = 5.7e8 networks.

    Args:
        scale: upscaling factor.
        nf: feature channels, or a list of those to choose from.
        num_blocks: blocks, and thereby the largest depth: a block whose body is ``skip`` is left out, or its attention alone.
        shared: all blocks share one choice of body and attention, and none can be skipped; else each chooses for itself.
        activation: between the convolutions of a body.
        candidates: bodies to choose from; ``None`` for all eight.
        attentions: attentions to choose from; ``None`` for none, spab and pa, with which tiles equal the whole image.
        partial_channel: K of the mixed bodies: a share of 1/K of the channels goes through them; must divide nf/4.
            More than 1 needs a single width.
        checkpointing: compute blocks again in the backward pass, which takes longer and less memory.
        execution: how mixed operations run: candidates one at a time, or together, which is faster and rounds otherwise.
    """

    network, registry, operations = PLAIN, PLAIN_CANDIDATES, PLAIN_OPERATIONS

    def __init__(
        self,
        scale: int = 2,
        nf: Features | Annotated[list[Features], Len(1)] = (16, 24, 32),  # type: ignore[assignment]
        num_blocks: Blocks = 6,
        shared: bool = False,
        activation: Activation = "leaky_relu",
        candidates: list[str] | None = None,
        attentions: list[str] | None = None,
        partial_channel: PartialChannel = 1,
        checkpointing: bool = False,
        execution: Execution = "fused",
    ) -> None:
        self.check(candidates, nf, attentions, partial_channel, shared)
        self.widths = (nf,) if isinstance(nf, int) else tuple(nf)
        self.num_blocks, self.shared, self.activation = num_blocks, shared, activation
        self.candidates = tuple(name for name in candidates or PLAIN_OPERATIONS if not (shared and name == SKIP))
        self.attentions, self.labels = tuple(attentions or PLAIN_GATES), labels_of(num_blocks, shared)
        self.checkpointing, widest = checkpointing, max(self.widths)
        self.mixed_op = mixed = MIXED_OPS[execution] if len(self.widths) == 1 else MixedOp
        bodies = {name: partial(PLAIN_CANDIDATES.get(name), act=ACTIVATIONS[activation]) for name in self.candidates}
        gates = {name: partial(_of_pair, PLAIN_ATTENTIONS.get(name)) for name in self.attentions}
        body = mixed if len(self.widths) == 1 else MaskedOp
        blocks = [
            PlainBlock(body(bodies, widest, widest, partial_channel), mixed(gates, widest, widest)) for _ in range(num_blocks)
        ]
        super().__init__(scale, widest, blocks)
        has_channel = torch.tensor([[float(channel < width) for channel in range(widest)] for width in self.widths])
        self.register_buffer("has_channel", has_channel, persistent=False)

    @classmethod
    def check(
        cls,
        candidates: list[str] | None = None,
        nf: Any = 32,
        attentions: list[str] | None = None,
        partial_channel: int = 1,
        shared: bool = False,
        **_: Any,
    ) -> None:
        super().check(candidates)
        check_candidates(PLAIN_ATTENTIONS, attentions)
        widths = [nf] if isinstance(nf, int) else nf
        if len(set(widths)) < len(widths):
            raise ValueError(f"nf {widths} names a width twice")
        if shared and SKIP in (candidates or ()):
            raise ValueError(f"a body that all blocks share cannot be {SKIP}; leave it out of candidates, or set shared to false")
        if partial_channel > 1 and len(widths) > 1:
            raise ValueError(f"partial_channel {partial_channel} mixes channels of all widths; with it nf must be one number")
        if (widths[0] // 4) % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide nf/4 = {widths[0] // 4}")

    def frame_settings(self) -> dict[str, Any]:
        """The network's arguments, without the genotype and what that says."""
        width = {"nf": self.widths[0]} if len(self.widths) == 1 else {}
        return {"scale": self.scale, **width, "num_blocks": self.num_blocks, "shared": self.shared, "activation": self.activation}

    def choices(self) -> dict[str, Choice]:
        """``width``, where there are several; then a body and an attention, of each block or of all."""
        width = {WIDTH: Choice(tuple(map(str, self.widths)), of="widths")} if len(self.widths) > 1 else {}
        return width | choices_of(self.candidates, self.attentions, self.num_blocks, self.shared)

    def forward(self, x: Tensor, weights: Weights) -> Tensor:  # type: ignore[override]
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 with the given candidate weights per label."""
        return self.reconstruct(x, self.bind(weights), self._channels(weights))

    def _channels(self, weights: Weights) -> Tensor | None:
        """Return the weight of each channel, ``[nf]``: the sum of those of the widths that have it."""
        if len(self.widths) == 1:
            return None
        has_channel = cast(Tensor, self.has_channel)
        return weights[WIDTH].to(has_channel) @ has_channel

    def weights_of_ops(self, weights: Weights) -> list[Tensor]:
        of_ops, channels = super().weights_of_ops(weights), self._channels(weights)
        if channels is not None:
            of_ops[::2] = [torch.cat((of_body, channels.to(of_body))) for of_body in of_ops[::2]]
        return of_ops

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the leading part of each tensor; with K > 1 only those that keep their shape."""
        names = {f"{path}.candidates.{genotype[label][0]}.": f"{path}." for path, label, _ in self._places()}
        return inherited_tensors(self, self.derive(genotype), names, leading=len(self.widths) > 1)

    def cost_sites(self) -> Mapping[str, CostSites]:
        """Each body and attention at each width; and of ``width`` itself the network without blocks."""
        count = self.num_blocks if self.shared else 1

        @cache
        def site(kind: str, width: int) -> CostSite:
            return CostSite(partial(self._module, kind, width), width, count=count)

        if len(self.widths) == 1:
            return {label: (site(label.rstrip("0123456789"), self.widths[0]),) for label in self.labels}
        frame = CostSite(lambda width: PlainFrame(self.scale, int(width)), 3)
        sites: dict[str, CostSites] = {WIDTH: (frame,)}
        for label in self.labels:
            sites[label] = {str(width): (site(label.rstrip("0123456789"), width),) for width in self.widths}
        return sites

    def _module(self, kind: str, width: int, name: str) -> nn.Module:
        if kind == "attention":
            return _Alone(PLAIN_ATTENTIONS.get(name)(width))
        module: nn.Module = PLAIN_CANDIDATES.get(name)(width, width, ACTIVATIONS[self.activation])
        return module


class _Alone(nn.Module):
    """An attention as a module of one tensor, for its cost."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Any:
        return self.attention((x, x))


def _of_pair(build: Any, channels: int, _: int) -> Any:
    return build(channels)
