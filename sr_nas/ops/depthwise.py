"""Depthwise convolution whose backward pass is fast on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = (torch.float16, torch.bfloat16)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Depthwise convolution with "same" padding, whose backward pass is fast on the CPU; same result and gradients.

    On the CPU, PyTorch has fast gradients for 3x3 depthwise convolutions only. For larger or dilated kernels, its backward pass
    takes 10 to 25 times as long as the forward pass. Here both gradients are computed as forward convolutions.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[C, 1, k, k]``, k odd.
        bias: ``[C]``, or ``None``.
        dilation: distance of the taps.
    """
    if not fast_gradients(x) or (weight.shape[-1] <= 3 and dilation == 1):
        return _convolve(x, weight, bias, dilation)
    result: Tensor = _Depthwise.apply(x, weight, bias, dilation)
    return result


def fast_gradients(x: Tensor) -> bool:
    """Whether gradients computed as forward convolutions are faster: in float32 and float64 on the CPU, as far as measured."""
    return x.device.type == "cpu" and x.dtype not in HALVES and not torch.is_autocast_enabled("cpu")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    # Both passes are made of differentiable operations, so double backward works without further code.

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.dilation = dilation
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, weight.flip(2, 3), None, ctx.dilation)
        if ctx.needs_input_grad[1]:
            # Each channel correlated with its output gradient, with the dilation as stride.
            kernel, padding = _side_by_side(grad).transpose(0, 1), ctx.dilation * (weight.shape[-1] // 2)
            each = F.conv2d(_side_by_side(x), kernel, padding=padding, stride=ctx.dilation, groups=len(kernel))
            grad_weight = each.view(len(x), *weight.shape).sum(0)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


def _side_by_side(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` -> ``[1, N * C, H, W]`` in the memory format of ``x``."""
    if x[0].is_contiguous():
        return x.flatten(0, 1)[None]
    return x.permute(2, 3, 0, 1).flatten(2, 3).permute(2, 0, 1)[None]
