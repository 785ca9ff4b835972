"""A depthwise convolution whose gradients are forward convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALVES = (torch.float16, torch.bfloat16)


def depthwise(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a depthwise convolution that keeps height and width; the same result and gradients, on the CPU sooner.

    PyTorch's library for the CPU has fast gradients of 3x3 depthwise convolutions alone. For larger kernels and for dilated ones,
    its backward pass takes 10 to 25 times as long as the forward one. Both gradients are also forward convolutions.

    Args:
        convolution: stride 1, odd kernel, one filter per channel.
        x: ``[N, C, H, W]``.
    """
    fast = convolution.kernel_size[0] <= 3 and convolution.dilation[0] == 1
    # Half precision and accelerators: not measured to gain.
    if fast or x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.dtype in HALVES:
        return convolution(x)
    result: Tensor = _Depthwise.apply(x, convolution.weight, convolution.bias, convolution.dilation[0])
    return result


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
        padding = ctx.dilation * (weight.shape[-1] // 2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad, weight.flip(2, 3), padding=padding, dilation=ctx.dilation, groups=len(weight))
        if ctx.needs_input_grad[1]:
            # Every channel of every image is correlated with its gradient: where the kernel has gaps, this has steps.
            kernel = _side_by_side(grad).transpose(0, 1)
            each = F.conv2d(_side_by_side(x), kernel, padding=padding, stride=ctx.dilation, groups=len(kernel))
            grad_weight = each.view(len(x), *weight.shape).sum(0)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


def _side_by_side(x: Tensor) -> Tensor:
    """Images as channels: ``[N, C, H, W]`` -> ``[1, N * C, H, W]``, in the order of memory that ``x`` has."""
    if x.is_contiguous():
        return x.flatten(0, 1)[None]
    return x.permute(2, 3, 0, 1).flatten(2, 3).permute(2, 0, 1)[None]
