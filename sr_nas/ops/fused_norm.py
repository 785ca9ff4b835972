"""BatchNorm of several candidates and their weighted sum in one step; no normalised tensor is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sr_nas.ops.differentiable import gradients

ROOM = (0, 3, 4)
"""Batch, height and width of ``[N, blocks, C, H, W]``."""

Parts = Sequence[tuple[Tensor, int]]
"""Blocks of channels, ``[N, blocks * C, H, W]``, and how many of them, from the first on, are added as they are."""


def normalised_sum(scale: Tensor, shift: Tensor, eps: float, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_b scale_b (z_b - mean_b) / sqrt(var_b + eps) + sum_a z_a + shift`` over B blocks of channels, others as they are.

    Args:
        scale: ``[B, C]``.
        shift: ``[C]``.
        eps: added to the variance.
        parts: the blocks in order.

    Returns:
        The sum ``[N, C, H, W]``, and mean and variance of the blocks, ``[B, C]``; the variance divides by N*H*W.
    """
    means, variances, total = [], [], _first(shift, parts)
    for own, blocks in _normalised(scale, parts):
        mean = blocks.mean(ROOM)
        # Centred before it is squared or scaled: products with a large mean would cancel only to rounding.
        centred = blocks - mean[:, :, None, None]
        variance = (centred * centred).mean(ROOM)
        total = _add_up(total, centred, scale[own] * (variance + eps).rsqrt())
        means.append(mean)
        variances.append(variance)
    return total.to(parts[0][0].dtype), torch.cat(means), torch.cat(variances)


def affine_sum(factor: Tensor, mean: Tensor, shift: Tensor, parts: Parts) -> Tensor:
    """``sum_b factor_b * (z_b - mean_b) + sum_a z_a + shift``; shapes as in :func:`normalised_sum`."""
    total = _first(shift, parts)
    for own, blocks in _normalised(factor, parts):
        total = _add_up(total, blocks - mean[own, :, None, None], factor[own])
    return total.to(parts[0][0].dtype)


def _first(shift: Tensor, parts: Parts) -> Tensor:
    """The blocks that are added as they are, and the shift."""
    total = shift[:, None, None]
    for part, leads in parts:
        for lead in part.split(len(shift), dim=1)[:leads]:
            total = total + lead
    return total


def _normalised(scale: Tensor, parts: Parts) -> Iterator[tuple[slice, Tensor]]:
    """The other blocks of every part that has some, ``[N, blocks, C, H, W]``, and which of all they are."""
    start = 0
    for part, leads in parts:
        blocks = part.to(scale.dtype).unflatten(1, (-1, scale.shape[1]))[:, leads:]
        if blocks.shape[1]:
            yield slice(start, start + blocks.shape[1]), blocks
            start += blocks.shape[1]


def _add_up(total: Tensor, blocks: Tensor, factor: Tensor) -> Tensor:
    for block, scale in zip(blocks.unbind(1), factor[:, :, None, None].unbind(), strict=True):
        total = total.addcmul_(block, scale) if total.dim() == block.dim() else torch.addcmul(total, block, scale)
    return total


@torch.no_grad()
def update_statistics(norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as a BatchNorm does: by its momentum towards mean and unbiased variance of the batch."""
    unbiased = variance * (count / (count - 1))
    for norm, new_mean, new_variance in zip(norms, mean.unbind(), unbiased.unbind(), strict=True):
        assert norm.momentum is not None
        norm.running_mean.lerp_(new_mean, norm.momentum)  # type: ignore[union-attr]
        norm.running_var.lerp_(new_variance, norm.momentum)  # type: ignore[union-attr]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]


class NormalisedSum(torch.autograd.Function):
    """:func:`normalised_sum` with a backward pass that needs its inputs alone."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, shift: Tensor, eps: float, leads: Sequence[int], *parts: Tensor) -> Any:
        result, mean, variance = normalised_sum(scale, shift, eps, list(zip(parts, leads, strict=True)))
        ctx.eps, ctx.leads = eps, leads
        # A part without a block to normalise gets the gradient of the sum as it is.
        needed = [None if part.shape[1] == lead * len(shift) else part for part, lead in zip(parts, leads, strict=True)]
        ctx.save_for_backward(scale, shift, mean, variance, *needed)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        scale, shift, mean, variance, *parts = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(grad, scale, shift, ctx.eps, ctx.leads, parts)
        channels, count = len(shift), grad.numel() // grad.shape[1]
        average = grad.mean((0, 2, 3), dtype=scale.dtype)
        g = (grad - average[:, None, None]).unsqueeze(1)
        root = (variance + ctx.eps).rsqrt()
        factor = scale * root
        correlations, grads, start = [], [], 0
        for part, lead in zip(parts, ctx.leads, strict=True):
            if part is None:
                grads.append(grad.repeat(1, lead, 1, 1) if lead > 1 else grad)
                continue
            blocks = part.to(scale.dtype).unflatten(1, (-1, channels))
            found = torch.empty_like(blocks)
            own = slice(start, start + blocks.shape[1] - lead)
            inner = torch.sub(blocks[:, lead:], mean[own, :, None, None], out=found[:, lead:])
            correlation = (inner * g).mean(ROOM)
            slope = factor[own] * root[own].square() * correlation
            inner.mul_(-slope[:, :, None, None]).addcmul_(g, factor[own, :, None, None])
            if lead:
                found[:, :lead] = grad[:, None]
            grads.append(found.flatten(1, 2).to(part.dtype))
            correlations.append(correlation)
            start = own.stop
        return torch.cat(correlations) * root * count, average * count, None, None, *grads


def _differentiable(
    grad: Tensor, scale: Tensor, shift: Tensor, eps: float, leads: Sequence[int], parts: Sequence[Tensor | None]
) -> Any:
    """The backward pass as a graph, for a gradient of gradients."""
    # A part that was not kept is a sum's alone; anything of its shape has its gradient.
    channels = len(shift)
    stands = [
        grad.new_zeros(len(grad), lead * channels, *grad.shape[2:], requires_grad=True) if part is None else part
        for part, lead in zip(parts, leads, strict=True)
    ]
    result = normalised_sum(scale, shift, eps, list(zip(stands, leads, strict=True)))[0]
    of_scale, of_shift, *of_parts = gradients([result], [scale, shift, *stands], [grad])
    return of_scale, of_shift, None, None, *of_parts
