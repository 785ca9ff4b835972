"""BatchNorm of several candidates and their weighted sum in one step; no normalised tensor is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ROOM = (0, 3, 4)
"""Batch, height and width of ``[N, blocks, C, H, W]``."""


def normalised_sum(scale: Tensor, shift: Tensor, eps: float, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_b scale_b * (z_b - mean_b) / sqrt(var_b + eps_b) + shift`` over B blocks of channels.

    Args:
        scale: ``[B, C]``.
        shift: ``[C]``.
        eps: added to the variance.
        parts: the blocks in order, ``[N, blocks * C, H, W]`` each.

    Returns:
        The sum ``[N, C, H, W]``, and mean and variance of the blocks, ``[B, C]``; the variance divides by N*H*W.
    """
    means, variances, total, start = [], [], None, 0
    for part in parts:
        blocks = _blocks(part, scale)
        mean = blocks.mean(ROOM)
        # Centred before it is squared or scaled: products with a large mean would cancel only to rounding.
        centred = blocks - mean[:, :, None, None]
        variance = (centred * centred).mean(ROOM)
        own = slice(start, start + blocks.shape[1])
        total = _add_up(total, centred, scale[own] * (variance + eps).rsqrt(), shift)
        means.append(mean)
        variances.append(variance)
        start = own.stop
    assert total is not None
    return total.to(parts[0].dtype), torch.cat(means), torch.cat(variances)


def affine_sum(factor: Tensor, mean: Tensor, shift: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """``sum_b factor_b * (z_b - mean_b) + shift``; shapes as in :func:`normalised_sum`."""
    total, start = None, 0
    for part in parts:
        blocks = _blocks(part, factor)
        own = slice(start, start + blocks.shape[1])
        total = _add_up(total, blocks - mean[own, :, None, None], factor[own], shift)
        start = own.stop
    assert total is not None
    return total.to(parts[0].dtype)


def _blocks(part: Tensor, like: Tensor) -> Tensor:
    return part.to(like.dtype).unflatten(1, (-1, like.shape[1]))


def _add_up(total: Tensor | None, blocks: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    for block, scale in zip(blocks.unbind(1), factor[:, :, None, None], strict=True):
        if total is None:
            total = torch.addcmul(shift[:, None, None], block, scale)
        else:
            total.addcmul_(block, scale)
    assert total is not None
    return total


@torch.no_grad()
def update_statistics(norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as a BatchNorm does: by its momentum towards mean and unbiased variance of the batch."""
    for norm, new_mean, new_variance in zip(norms, mean, variance * (count / (count - 1)), strict=True):
        assert norm.running_mean is not None and norm.running_var is not None
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        norm.running_mean.lerp_(new_mean, norm.momentum)
        norm.running_var.lerp_(new_variance, norm.momentum)
        norm.num_batches_tracked.add_(1)


class NormalisedSum(torch.autograd.Function):
    """:func:`normalised_sum` with a backward pass that needs its inputs alone."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, shift: Tensor, eps: float, *parts: Tensor) -> Any:
        result, mean, variance = normalised_sum(scale, shift, eps, *parts)
        ctx.eps = eps
        ctx.save_for_backward(scale, shift, mean, variance, *parts)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        scale, shift, mean, variance, *parts = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(grad, scale, shift, ctx.eps, *parts)
        average, count = grad.mean((0, 2, 3), dtype=scale.dtype), grad.numel() // grad.shape[1]
        g = (grad - average[:, None, None]).unsqueeze(1)
        root = (variance + ctx.eps).rsqrt()
        correlations, grads, start = [], [], 0
        for part in parts:
            blocks = _blocks(part, scale)
            own = slice(start, start + blocks.shape[1])
            found = blocks - mean[own, :, None, None]
            correlation = (found * g).mean(ROOM)
            factor = scale[own] * root[own]
            slope = factor * root[own].square() * correlation
            found.mul_(-slope[:, :, None, None]).addcmul_(g, factor[:, :, None, None])
            grads.append(found.flatten(1, 2).to(part.dtype))
            correlations.append(correlation)
            start = own.stop
        return torch.cat(correlations) * root * count, average * count, None, *grads


def _differentiable(grad: Tensor, scale: Tensor, shift: Tensor, eps: float, *parts: Tensor) -> Any:
    """The backward pass as a graph, for a gradient of gradients."""
    inputs = (scale, shift, *parts)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(normalised_sum(scale, shift, eps, *parts)[0], wanted, grad, create_graph=True))
    of_scale, of_shift, *of_parts = (next(found) if tensor.requires_grad else None for tensor in inputs)
    return of_scale, of_shift, None, *of_parts
