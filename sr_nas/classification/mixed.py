"""The mixed operation of a cell for classification: candidates of one channel count, with a stride."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import CellBuilder, Zero
from sr_nas.ops.fused_forms import update_statistics
from sr_nas.ops.mixed import MixedOp


def searchable(candidate: nn.Module, channels: int) -> nn.Module:
    """A candidate as it stands in a supernet: poolings have a BatchNorm without scale and shift behind them (DARTS)."""
    if isinstance(candidate, (nn.MaxPool2d, nn.AvgPool2d)):
        return nn.Sequential(candidate, nn.BatchNorm2d(channels, affine=False))
    return candidate


class CellMixedOp(nn.Module):
    """``sum_i weights[i] * candidate_i(x)`` (DARTS, eq. 2), on all channels or on a share of them.

    With ``partial_channel`` K > 1 (PC-DARTS, Xu et al. 2020, eq. 1) the first 1/K of the channels go through the candidates;
    the rest bypass them, through a 2x2 max-pooling at stride 2, and the result is channel-shuffled. BatchNorms have no scale and
    no shift, which would undo the weights.

    Args:
        builders: candidate name -> function of (channels, stride, affine).
        channels: of the input and the result.
        stride: 1 or 2.
        partial_channel: K; must divide the channels.

    Raises:
        ValueError: a K that does not divide the channels.
    """

    def __init__(self, builders: Mapping[str, CellBuilder], channels: int, stride: int, partial_channel: int = 1) -> None:
        super().__init__()
        if channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide {channels} channels")
        self.stride, self.partial_channel, self.sampled = stride, partial_channel, channels // partial_channel
        built = {name: build(self.sampled, stride, False) for name, build in builders.items()}
        self.candidates = nn.ModuleDict({name: searchable(candidate, self.sampled) for name, candidate in built.items()})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix.

        Args:
            x: ``[N, channels, H, W]``.
            weights: ``[number of candidates]``.

        Returns:
            ``[N, channels, ceil(H/stride), ceil(W/stride)]``.
        """
        if self.partial_channel == 1:
            return self._mix(x, weights)
        mixed, bypassed = self._mix(x[:, : self.sampled], weights), x[:, self.sampled :]
        if self.stride == 2:
            bypassed = F.max_pool2d(bypassed, 2, ceil_mode=True)
        return F.channel_shuffle(torch.cat((mixed, bypassed), dim=1), self.partial_channel)

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        # Zeros add nothing and give their weight no gradient, so they are not computed.
        first, *rest = (
            weight * candidate(x)
            for weight, candidate in zip(weights, self.candidates.values(), strict=True)
            if not isinstance(candidate, Zero)
        )
        for term in rest:
            first = first + term
        return first


# MERGED sr_nas.classification.mixed: Edges of a cell that read one node, computed together: equal to each mixed
# operation by itself, and cheaper.


EPS = 1e-5
"""Of the BatchNorms that are joined: PyTorch's own; candidates with another run by themselves."""


@dataclass(frozen=True, eq=False)
class _Convolution:
    """A candidate that is ReLU, convolution and BatchNorm, and its place among those of its edge."""

    place: int
    convolution: nn.Conv2d
    norm: nn.BatchNorm2d


def mixed_together(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """Return ``[op(x, weight) for op, weight in zip(ops, weights)]``.

    Convolutions of one kernel size are one, over all edges, which reads one rectified input, with one BatchNorm over all its
    channels; beta scales in that BatchNorm. The 3x3 average is taken once. Candidates of another form run by themselves.

    Args:
        ops: mixed operations with as many input as output channels, and one K.
        weights: ``[number of candidates]`` for each.
        x: ``[N, C, H, W]``.
    """
    k, sampled = ops[0].partial_channel, ops[0].sampled
    part = x if k == 1 else x[:, :sampled]
    mixed = _mix(ops, weights, part)
    if k == 1:
        return mixed
    rest = x[:, sampled:]
    return [F.channel_shuffle(torch.cat((own, op.bypass(rest)), dim=1), k) for own, op in zip(mixed, ops, strict=True)]


def mixed_apart(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """Return the same, each mixed operation by itself."""
    return [op(x, weight) for op, weight in zip(ops, weights, strict=True)]


def _mix(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    found = [_sorted(op) for op in ops]
    sums = _normalised([convolutions for convolutions, *_ in found], weights, x)
    pooled = average_3x3(x) if any(averages for _, averages, *_ in found) else None
    results = []
    for total, op, weight, (_, averages, skips, others) in zip(sums, ops, weights, found, strict=True):
        candidates = list(op.candidates.values())
        read = [(place, cast(Tensor, pooled)) for place in averages] + [(place, x) for place in skips]
        total = torch.zeros_like(x) if total is None else total
        for place, y in read + [(place, candidates[place](x)) for place in others]:
            total = cast(Tensor, _AddScaled.apply(total, weight[place], y))
        results.append(total)
    return results


def _sorted(op: MixedOp) -> tuple[list[_Convolution], list[int], list[int], list[int]]:
    """Convolutions, and the places of 3x3 averages, of identities and of all else but zeros. Types are compared exactly."""
    convolutions, averages, skips, others = [], [], [], []
    for place, candidate in enumerate(op.candidates.values()):
        if (found := _convolution(place, candidate, op.training)) is not None:
            convolutions.append(found)
        elif type(candidate) is nn.Identity:
            skips.append(place)
        elif type(candidate) is nn.AvgPool2d and _settings(candidate) == (3, 1, 1, False, False):
            averages.append(place)
        elif type(candidate) is not Zero:
            others.append(place)
    return convolutions, averages, skips, others


def _settings(pool: nn.AvgPool2d) -> tuple[object, ...]:
    return pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad


def _convolution(place: int, candidate: nn.Module, training: bool) -> _Convolution | None:
    if type(candidate) is not nn.Sequential or [type(part) for part in candidate] != [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]:
        return None
    convolution, norm = cast(nn.Conv2d, candidate[1]), cast(nn.BatchNorm2d, candidate[2])
    kernel = convolution.kernel_size[0]
    plain = (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
    same = convolution.kernel_size == (kernel, kernel) and kernel % 2 == 1 and convolution.padding == (kernel // 2,) * 2
    # One BatchNorm stands for all, so that it has one eps.
    tracked = norm.track_running_stats and norm.momentum is not None and norm.training == training and norm.eps == EPS
    fits = plain and same and convolution.bias is None and convolution.padding_mode == "zeros" and tracked
    return _Convolution(place, convolution, norm) if fits else None


def _normalised(edges: Sequence[Sequence[_Convolution]], weights: Sequence[Tensor], x: Tensor) -> list[Tensor | None]:
    """Return for each edge the weighted sum of its normalised convolutions, or ``None`` where it has none."""
    every = [(edge, found) for edge, own in enumerate(edges) for found in own]
    sums: list[Tensor | None] = [None] * len(edges)
    rectified = F.relu(x) if every else x
    for side in sorted({found.convolution.kernel_size[0] for _, found in every}):
        alike = [(edge, found) for edge, found in every if found.convolution.kernel_size[0] == side]
        parts = _joined([found for _, found in alike], [weights[edge][found.place] for edge, found in alike], rectified)
        for (edge, _), part in zip(alike, parts, strict=True):
            before = sums[edge]
            sums[edge] = part if before is None else before + part
    return sums


def _joined(every: Sequence[_Convolution], weights: Sequence[Tensor], x: Tensor) -> Sequence[Tensor]:
    """Each convolution of ``x``, normalised and scaled by its weight; they are of one kernel size and computed as one."""
    z = F.conv2d(x, torch.cat([found.convolution.weight for found in every]), padding=every[0].convolution.padding)
    norms = [found.norm for found in every]
    scale = torch.cat([_affine(norm, "weight", 1.0) * weight for norm, weight in zip(norms, weights, strict=True)])
    shift = torch.cat([_affine(norm, "bias", 0.0) * weight for norm, weight in zip(norms, weights, strict=True)])
    if norms[0].training:
        y, mean, root = torch.native_batch_norm(z, scale, shift, None, None, True, 0.0, EPS)
        _note(norms, mean.detach(), root.detach(), z.numel() // z.shape[1])
    else:
        mean, variance = (
            torch.cat([cast(Tensor, getattr(norm, f"running_{name}")) for norm in norms]) for name in ("mean", "var")
        )
        y = F.batch_norm(z, mean, variance, scale, shift, False, 0.0, EPS)
    return y.split([norm.num_features for norm in norms], dim=1)


def _affine(norm: nn.BatchNorm2d, name: str, otherwise: float) -> Tensor:
    found = getattr(norm, name)
    return cast(Tensor, norm.running_mean).new_full((norm.num_features,), otherwise) if found is None else found


def _note(norms: Sequence[nn.BatchNorm2d], mean: Tensor, root: Tensor, count: int) -> None:
    sizes = [norm.num_features for norm in norms]
    variance = root**-2 - EPS
    for norm, own_mean, own_variance in zip(norms, mean.split(sizes), variance.split(sizes), strict=True):
        update_statistics([norm], own_mean[None], own_variance[None], count)


def average_3x3(x: Tensor) -> Tensor:
    """Return the mean over the 3x3 neighbourhood of every pixel, of those inside the image: AvgPool2d that counts no padding.

    As sums of shifted images: PyTorch's own takes many times as long on a CPU.
    """
    height, width = x.shape[2:]

    def inside(side: int) -> Tensor:
        counts = torch.full((side,), 3.0, dtype=x.dtype, device=x.device)
        counts[0] -= 1
        counts[-1] -= 1
        return counts.reciprocal()

    return cast(Tensor, _Sum3x3.apply(x)) * torch.outer(inside(height), inside(width))


class _Sum3x3(torch.autograd.Function):
    """The sum over the 3x3 neighbourhood of every pixel; it is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.clone()
        rows[..., 1:] += x[..., :-1]
        rows[..., :-1] += x[..., 1:]
        total = rows.clone()
        total[..., 1:, :] += rows[..., :-1, :]
        total[..., :-1, :] += rows[..., 1:, :]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Sum3x3.apply(grad)


class _AddScaled(torch.autograd.Function):
    """``total + weight * x`` for a single weight, whose gradient is an inner product that stores nothing."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(weight, x)
        return torch.addcmul(total, x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, x = ctx.saved_tensors
        return grad, torch.dot(grad.flatten(), x.flatten()), grad * weight
