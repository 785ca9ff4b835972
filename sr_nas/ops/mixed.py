"""The mixed operation: every candidate on the same input, summed by weight; and recomputation in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sr_nas.errors import listing, nearest
from sr_nas.registry import Registry

Builder = Callable[[int, int], nn.Module]
PartialChannel = Annotated[int, Ge(1)]


class MixedOp(nn.Module):
    """``sum_i weights[i] * candidate_i(x)`` (DARTS, eq. 1), on all channels or on a share of them.

    With ``partial_channel`` K > 1 (SA-DARTS, eq. 19; PC-DARTS) the first C_in/K channels go through the candidates and
    give C_out/K; the rest bypass them, through a 1x1 convolution where the counts differ, and the result is
    channel-shuffled, so that the next mixed operation sees other channels. The paper does not say what happens where
    C_in differs from C_out; the 1x1 convolution is this project's answer. K = 1 is the plain mixed operation, to the bit.

    ``builders`` maps candidate names to functions of (input channels, output channels). K must divide both channel counts.
    """

    def __init__(self, builders: Mapping[str, Builder], in_channels: int, out_channels: int, partial_channel: int = 1) -> None:
        super().__init__()
        if in_channels % partial_channel or out_channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide {in_channels} and {out_channels} channels")
        self.in_channels, self.out_channels, self.partial_channel = in_channels, out_channels, partial_channel
        self.sampled = in_channels // partial_channel
        share = out_channels // partial_channel
        self.candidates = nn.ModuleDict({name: build(self.sampled, share) for name, build in builders.items()})
        self.bypass: nn.Module = nn.Identity()
        if partial_channel > 1 and in_channels != out_channels:
            self.bypass = nn.Conv2d(in_channels - self.sampled, out_channels - share, 1)

    @classmethod
    def bind(cls, ops: Sequence[MixedOp], weights: Sequence[Tensor]) -> list[Callable[[Tensor], Tensor]]:
        """Return operations of this class as functions of their input alone, for one pass with these weights of candidates.

        A subclass may share work between them.
        """
        return [partial(op, weights=weight) for op, weight in zip(ops, weights, strict=True)]

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``, with ``weights`` of ``[number of candidates]``.

        Of a bool mask, the candidates that are true are computed alone, and added up.
        """
        if self.partial_channel == 1:
            return self._mix(x, weights)
        mixed = self._mix(x[:, : self.sampled], weights)
        joined = torch.cat((mixed, self.bypass(x[:, self.sampled :])), dim=1)
        return F.channel_shuffle(joined, self.partial_channel)

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._sum(weights, [partial(candidate, x) for candidate in self.candidates.values()])

    def _sum(self, weights: Tensor, outputs: Sequence[Callable[[], Tensor]]) -> Tensor:
        pairs = zip(weights, outputs, strict=True)
        if weights.dtype == torch.bool:
            first, *rest = (output() for chosen, output in pairs if chosen)
        else:
            first, *rest = (weight * output() for weight, output in pairs)
        for term in rest:
            first = first + term
        return first


def check_candidates(registry: Registry, candidates: list[str] | None) -> None:
    """Raise ValueError unless ``candidates`` are two or more different names of the registry, or ``None`` for the default."""
    if candidates is None:
        return
    known = registry.names()
    for name in candidates:
        if name not in known:
            raise ValueError(f"unknown {registry.kind} '{name}'{nearest(name, known)} Allowed: {listing(known)}.")
    if len(set(candidates)) != len(candidates) or len(candidates) < 2:
        names = listing(candidates) or "none"
        raise ValueError(f"of {registry.kind}s, two or more different names are needed to choose from, not {names}")


def inherited_tensors(
    supernet: nn.Module, derived: nn.Module, names: Mapping[str, str], leading: bool = False
) -> dict[str, Tensor]:
    """Return the supernet's tensors that keep their shape in a derived network, under the names they have there.

    With ``leading`` the others are there too, cut to the first channels that the derived network has.

    ``names`` maps parts of names in the supernet to those in the derived network, for every selected candidate, such as
    ``"convs.0.candidates.conv_3x3."`` to ``"convs.0."``.
    """
    expected, tensors = derived.state_dict(), {}
    for name, tensor in supernet.state_dict().items():
        for inside, outside in names.items():
            name = name.replace(inside, outside)
        if name in expected and (leading or expected[name].shape == tensor.shape):
            tensors[name] = tensor[tuple(map(slice, expected[name].shape))] if leading else tensor
    return tensors


def checkpointed(part: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return ``run(part, *inputs)`` with all but the inputs computed again in the backward pass (Chen et al. 2016).

    The second run uses the parameters of the first, even those that :func:`torch.func.functional_call` had swapped in for the
    first only, and leaves the buffers as they are: BatchNorm statistics are updated once. Every tensor that ``run`` reads and
    that needs a gradient must be a parameter of ``part`` or an input.
    """
    if not torch.is_grad_enabled():
        return run(part, *inputs)
    caller = _Caller(part, run)
    parameters, buffers = dict(caller.named_parameters()), dict(caller.named_buffers())
    passes = 0

    def call(*inputs: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        current = buffers if passes == 1 else {name: buffer.clone() for name, buffer in buffers.items()}
        return cast(Tensor, functional_call(caller, parameters | current, inputs))

    result: Tensor = checkpoint(call, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


class _Caller(nn.Module):
    def __init__(self, part: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.part, self.run = part, run
        self.training = part.training

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(self.part, *inputs)
