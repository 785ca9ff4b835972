"""What a fused mixed operation needs besides its input, computed for many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sr_nas.ops.fused_bank import Bank
from sr_nas.ops.fused_forms import Stage
from sr_nas.ops.fused_kernels import Assembly
from sr_nas.ops.fused_plan import FusedPlan
from sr_nas.ops.fused_wide import spread


@dataclass(frozen=True, eq=False)
class Prepared:
    """The weights of one operation for one pass.

    Attributes:
        weights: of its candidates.
        shift: ``[C]``, added to the sum: the biases of everything; ``None`` for none.
        scale: ``[B, C]``, what normalised blocks are multiplied by; in evaluation, blocks as they are.
        offset: ``[B, C]``; in training, what the blocks lack to the candidates' own results, a bias, which a BatchNorm cancels
            and its statistics show; in evaluation, what is subtracted from the blocks.
        kernels: of its wide convolutions.
        banks: of every bank its pointwise kernels and its depthwise ones.
    """

    weights: Tensor
    shift: Tensor | None
    scale: Tensor | None
    offset: Tensor | None
    kernels: tuple[Tensor, ...]
    banks: tuple[tuple[Tensor, tuple[Tensor, ...]], ...]


def prepare(plans: Sequence[FusedPlan], weights: Tensor, training: bool) -> list[Prepared]:
    """Prepare operations that are alike.

    Args:
        plans: theirs, of one signature.
        weights: of their candidates, ``[operations, candidates]``.
        training: whether their BatchNorms take the statistics of the batch.
    """
    first = plans[0]
    kernels, biases = Assembly([plan.wides for plan in plans])(weights) if first.wides else ([], [])
    shift = scale = offset = None
    for wide, bias in zip(first.wides, biases, strict=True):
        if wide.summed and bias is not None:
            own = bias[:, : wide.parts[0].stage.out_channels]
            shift = own if shift is None else shift + own
    banks = [bank_weights([plan.banks[number] for plan in plans], weights) for number in range(len(first.banks))]
    if first.norms:
        factor = weights[:, [index for index, _ in first.norms], None]
        scale, beta = factor * _stacked(plans, "weight"), (factor * _stacked(plans, "bias")).sum(1)
        shift = beta if shift is None else shift + beta
        channels, lacking = scale.shape[2], []
        for wide, bias in zip(first.wides, biases, strict=True):
            own = weights.new_zeros(len(plans), wide.shape[0]) if bias is None else bias
            lacking.append(own.unflatten(1, (-1, channels))[:, int(wide.summed) :])
        for bank, (_, _, bias) in zip(first.banks, banks, strict=True):
            shift = shift + bias[:, : bank.leads].sum(1)
            lacking.append(bias[:, bank.leads :])
        offset = torch.cat(lacking, dim=1)
        if not training:
            scale = scale * (_stacked(plans, "running_var") + first.norms[0][1].eps).rsqrt()
            offset = _stacked(plans, "running_mean") - offset
    none: list[Tensor | None] = [None] * len(plans)
    shifts, scales, offsets = (none if tensor is None else tensor.unbind() for tensor in (shift, scale, offset))
    wide_kernels = [kernel.unbind() for kernel in kernels]
    own_banks = [(pointwise.unbind(), [kernel.unbind() for kernel in depthwise]) for pointwise, depthwise, _ in banks]
    return [
        Prepared(
            own,
            shifts[place],
            scales[place],
            offsets[place],
            tuple(kernel[place] for kernel in wide_kernels),
            tuple((pointwise[place], tuple(kernel[place] for kernel in depthwise)) for pointwise, depthwise in own_banks),
        )
        for place, own in enumerate(weights.unbind())
    ]


def bank_weights(banks: Sequence[Bank], weights: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Kernels of banks that are alike; those of sums carry their weights.

    Returns:
        Pointwise ``[operations, stages, C_out, C_in]``; of every run depthwise, ``[operations, stages of it * C_in, 1, k, k]``;
        biases ``[operations, stages, C_out]``.
    """
    first = banks[0]
    stages = list(zip(*(bank.stages for bank in banks), strict=True))
    tensors = [[[convolution.weight for convolution in stage.convolutions] for stage in same] for same in stages]
    pointwise = (
        torch.stack([own[-1] for same in tensors for own in same]).unflatten(0, (len(stages), -1)).transpose(0, 1)[..., 0, 0]
    )
    factor = torch.cat((weights[:, first.weights[: first.leads]], weights.new_ones(len(banks), len(stages) - first.leads)), dim=1)
    pointwise = pointwise * factor[..., None, None]
    depthwise, start = [], 0
    for size, count in first.runs:
        run = range(start, start + count)
        kernels = [spread(torch.stack([own[0] for own in tensors[place]]), first.stages[place], *size) for place in run]
        depthwise.append(torch.cat(kernels, dim=1))
        start += count
    biases = [_bias(same, pointwise[:, place], factor[:, place, None]) for place, same in enumerate(stages)]
    return pointwise, depthwise, torch.stack(biases, dim=1)


def _bias(stages: Sequence[Stage], pointwise: Tensor, factor: Tensor) -> Tensor:
    """What the stages of all operations add to their results: ``[operations, C_out]``."""
    total = pointwise.new_zeros(pointwise.shape[:2])
    firsts, lasts = ([stage.convolutions[half].bias for stage in stages] for half in (0, -1))
    if firsts[0] is not None:
        total = total + (pointwise * torch.stack(cast("list[Tensor]", firsts))[:, None]).sum(2)
    if lasts[0] is not None:
        total = total + factor * torch.stack(cast("list[Tensor]", lasts))
    return total


def _stacked(plans: Sequence[FusedPlan], name: str) -> Tensor:
    """A tensor of all BatchNorms, ``[operations, B, C]``."""
    found = [getattr(norm, name) for plan in plans for _, norm in plan.norms]
    return torch.stack(found).unflatten(0, (len(plans), -1))
