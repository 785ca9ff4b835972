"""The halves of a depthwise-separable convolution, with gradients that are fast on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = (torch.float16, torch.bfloat16)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Run a depthwise convolution that keeps height and width; the same result and gradients, on the CPU sooner.

    PyTorch's library for the CPU has fast gradients of 3x3 depthwise convolutions alone. For larger kernels and for dilated ones,
    its backward pass takes 10 to 25 times as long as the forward one. Both gradients are also forward convolutions.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[C, 1, k, k]``, k odd.
        bias: ``[C]``, or ``None``.
        dilation: distance of the taps.
    """
    if (weight.shape[-1] <= 3 and dilation == 1) or not fast_gradients(x):
        return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=len(weight))
    result: Tensor = _Depthwise.apply(x, weight, bias, dilation)
    return result


def fast_gradients(x: Tensor) -> bool:
    """Whether gradients as forward convolutions are the faster ones. Half precision and accelerators: not measured to gain."""
    return x.device.type == "cpu" and x.dtype not in HALVES and not torch.is_autocast_enabled("cpu")


def input_gradient(grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Gradient of the input of a depthwise convolution that keeps height and width, from that of its result."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(grad, weight.flip(2, 3), padding=padding, dilation=dilation, groups=len(weight))


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Gradient of the weight: every channel of every image is correlated with its gradient.

    Where the kernel has gaps, the correlation has steps.
    """
    kernel = _side_by_side(grad).transpose(0, 1)
    padding = dilation * (weight.shape[-1] // 2)
    each = F.conv2d(_side_by_side(x), kernel, padding=padding, stride=dilation, groups=len(kernel))
    return each.view(len(x), *weight.shape).sum(0)


class _Depthwise(torch.autograd.Function):
    """Written in differentiable operations, so that gradients of gradients come by themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.dilation = dilation
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad, weight, ctx.dilation)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad, weight, ctx.dilation)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


def _side_by_side(x: Tensor) -> Tensor:
    """Images as channels: ``[N, C, H, W]`` -> ``[1, N * C, H, W]``, in the order of memory that ``x`` has."""
    if x[0].is_contiguous():
        return x.flatten(0, 1)[None]
    return x.permute(2, 3, 0, 1).flatten(2, 3).permute(2, 0, 1)[None]
