"""Mixed operations of classification: those of a cell with strides, and those that read one node computed together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_operations import CellBuilder, Zero
from sr_nas.ops.fused import normalise
from sr_nas.ops.mixed import MixedOp

EPS, MOMENTUM = 1e-5, 0.1
"""eps of the BatchNorms that are joined, PyTorch's default; candidates with another one run by themselves."""


class CellMixedOp(MixedOp):
    """The mixed operation of DARTS's cells, with a stride (DARTS, eq. 2; PC-DARTS, Xu et al. 2020, eq. 1).

    It maps ``[N, channels, H, W]`` to ``[N, channels, ceil(H/stride), ceil(W/stride)]``. Channels that bypass the candidates go
    through a 2x2 max-pooling at stride 2. BatchNorms have no scale and no shift, which would undo the weights.

    Args:
        builders: candidate name -> function of (channels, stride, affine).
        channels: of the input and the result.
        stride: 1 or 2.
        partial_channel: K; must divide the channels.
    """

    def __init__(self, builders: Mapping[str, CellBuilder], channels: int, stride: int, partial_channel: int = 1) -> None:
        super().__init__(
            {name: partial(_searchable, build, stride) for name, build in builders.items()}, channels, channels, partial_channel
        )
        if stride == 2:
            self.bypass = nn.MaxPool2d(2, ceil_mode=True)

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        if weights.dtype == torch.bool:
            return super()._mix(x, weights)
        # Zeros add nothing and give their weight no gradient, so they are not computed.
        first, *rest = (
            weight * candidate(x)
            for weight, candidate in zip(weights, self.candidates.values(), strict=True)
            if not isinstance(candidate, Zero)
        )
        return sum(rest, first)


def _searchable(build: CellBuilder, stride: int, channels: int, _: int) -> nn.Module:
    """A candidate in a supernet: without scale and shift, poolings with a BatchNorm behind them (DARTS).

    An identity is a dropout of probability 0, which is the same, and which P-DARTS raises.
    """
    candidate = build(channels, stride, False)
    if isinstance(candidate, nn.Identity):
        return nn.Dropout(0.0)
    if isinstance(candidate, (nn.MaxPool2d, nn.AvgPool2d)):
        return nn.Sequential(candidate, nn.BatchNorm2d(channels, affine=False))
    return candidate


def mixed_apart(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """Return ``[op(x, weight) for op, weight in zip(ops, weights)]``."""
    return [op(x, weight) for op, weight in zip(ops, weights, strict=True)]


def mixed_together(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """Return the same as :func:`mixed_apart` in less time.

    Convolutions of one kernel size are one convolution of the rectified input, over all edges, with one BatchNorm over all its
    channels, whose scale holds the weights. The 3x3 average is computed once. Candidates of another form run by themselves.

    Args:
        ops: mixed operations with as many input as output channels, and one K.
        weights: ``[number of candidates]`` for each.
        x: ``[N, C, H, W]``.
    """
    if weights[0].dtype == torch.bool:
        return mixed_apart(ops, weights, x)
    k, sampled = ops[0].partial_channel, ops[0].sampled
    mixed = _mix(ops, weights, x[:, :sampled])
    if k == 1:
        return mixed
    rest = x[:, sampled:]
    return [F.channel_shuffle(torch.cat((part, op.bypass(rest)), dim=1), k) for part, op in zip(mixed, ops, strict=True)]


Block = tuple[int, Tensor, nn.Conv2d, nn.BatchNorm2d]
"""Number of the edge, weight, convolution and BatchNorm of a candidate."""


def _mix(ops: Sequence[MixedOp], weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    blocks: dict[object, list[Block]] = defaultdict(list)  # candidates that are computed as one
    others: list[tuple[int, Tensor, Tensor]] = []  # edge, weight, output
    average: Tensor | None = None
    for edge, (op, scales) in enumerate(zip(ops, weights, strict=True)):
        for scale, candidate in zip(scales, op.candidates.values(), strict=True):
            if (layers := _joinable(candidate, op.training)) is not None:
                convolution, norm = layers
                blocks[convolution.kernel_size, norm.affine].append((edge, scale, convolution, norm))
            elif _is_average_3x3(candidate):
                average = average_3x3(x) if average is None else average
                others.append((edge, scale, average))
            elif type(candidate) is not Zero:
                others.append((edge, scale, candidate(x)))
    sums: list[Tensor | None] = [None] * len(ops)
    rectified = F.relu(x) if blocks else x
    for alike in blocks.values():
        for (edge, *_), part in zip(alike, _join(alike, rectified), strict=True):
            before = sums[edge]
            sums[edge] = part if before is None else before + part
    results = [torch.zeros_like(x) if total is None else total for total in sums]
    for edge, scale, output in others:
        results[edge] = results[edge] + scale * output
    return results


def _joinable(candidate: nn.Module, training: bool) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """Return convolution and BatchNorm of a candidate that is ReLU and these two, in a form that :func:`_join` computes."""
    # Types are compared exactly: a subclass may compute something else.
    if type(candidate) is not nn.Sequential or [type(part) for part in candidate] != [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]:
        return None
    convolution, norm = cast(nn.Conv2d, candidate[1]), cast(nn.BatchNorm2d, candidate[2])
    kernel = convolution.kernel_size[0]
    plain = (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
    same_size = convolution.kernel_size == (kernel, kernel) and kernel % 2 == 1 and convolution.padding == (kernel // 2,) * 2
    tracked = norm.track_running_stats and (norm.eps, norm.momentum, norm.training) == (EPS, MOMENTUM, training)
    fits = plain and same_size and convolution.bias is None and convolution.padding_mode == "zeros" and tracked
    return (convolution, norm) if fits else None


def _is_average_3x3(candidate: nn.Module) -> bool:
    if type(candidate) is not nn.AvgPool2d or candidate.ceil_mode or candidate.count_include_pad:
        return False
    return (candidate.kernel_size, candidate.stride, candidate.padding) == (3, 1, 1)


def _join(blocks: Sequence[Block], x: Tensor) -> Sequence[Tensor]:
    """Return each convolution of ``x``, normalised and weighted; they have one kernel size and are computed as one."""
    z = F.conv2d(x, torch.cat([convolution.weight for _, _, convolution, _ in blocks]), padding=blocks[0][2].padding)
    norms = [norm for *_, norm in blocks]
    sizes = [norm.num_features for norm in norms]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(norm, name) for norm in norms])

    scale = torch.cat([weight.expand(size) for (_, weight, *_), size in zip(blocks, sizes, strict=True)])
    shift = torch.zeros_like(scale)
    if norms[0].affine:
        scale, shift = scale * joined("weight"), scale * joined("bias")
    y = normalise(norms, z, (scale, shift, joined("running_mean"), joined("running_var")), norms[0].training)
    if norms[0].training:
        torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in norms], 1)
    return y.split(sizes, dim=1)


def average_3x3(x: Tensor) -> Tensor:
    """Return the mean over the 3x3 neighbourhood of every pixel, of those inside the image: AvgPool2d that counts no padding.

    As a depthwise convolution: PyTorch's average pooling takes many times as long on a CPU.
    """
    inside = F.conv2d(x.new_ones(1, 1, *x.shape[2:]), x.new_ones(1, 1, 3, 3), padding=1)
    return F.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1]) / inside
