"""Depthwise-separable convolutions of one input as few calls: depthwise ones of one size together, then a matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.ops.depthwise import fast_gradients, input_gradient, weight_gradient
from sr_nas.ops.differentiable import gradients
from sr_nas.ops.fused_forms import Stage
from sr_nas.ops.fused_wide import covers

Size = tuple[int, int]
"""Side of a kernel and distance of its taps."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Separable convolutions that read one thing.

    Attributes:
        source: what they read.
        stages: the convolutions; the first ``leads`` are summed as they are, each other one is normalised.
        weights: places of their weights among those of the mixed operation.
        leads: how many are summed as they are.
        sizes: of the depthwise kernel that each is computed with; it may have more taps than the stage's own.
    """

    source: int
    stages: tuple[Stage, ...]
    weights: tuple[int, ...]
    leads: int
    sizes: tuple[Size, ...]

    @property
    def runs(self) -> list[tuple[Size, int]]:
        """Neighbours of one size: the size and how many."""
        return [(size, len(list(same))) for size, same in groupby(self.sizes)]

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal where two banks of different operations may be computed together."""
        shapes = [tensor is None or tensor.shape for stage in self.stages for tensor in stage.tensors()]
        return self.source, self.weights, self.leads, self.sizes, *shapes

    def __call__(self, x: Tensor, pointwise: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        """Convolve.

        Args:
            x: ``[N, C_in, H, W]``.
            pointwise: ``[stages, C_out, C_in]``.
            kernels: of every run, ``[stages of the run * C_in, 1, k, k]``.

        Returns:
            ``[N, stages * C_out, H, W]``, without biases.
        """
        dilations = [dilation for (_, dilation), _ in self.runs]
        if not fast_gradients(x):
            return separable(x, pointwise, kernels, dilations)
        result: Tensor = _Separable.apply(x, pointwise, dilations, *kernels)
        return result


def shared_sizes(stages: Sequence[Stage]) -> list[Size]:
    """For every stage the size of the largest kernel of all that holds its own."""
    own = sorted({(stage.kernel, stage.dilation) for stage in stages}, key=lambda size: (-size[0], size[1]))
    return [next(size for size in own if covers(*size, stage)) for stage in stages]


def _depthwise(x: Tensor, kernels: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    """Every kernel on every channel it is of: ``[N, stages * C_in, H, W]``."""
    found = []
    for kernel, dilation in zip(kernels, dilations, strict=True):
        copies = x.repeat(1, len(kernel) // x.shape[1], 1, 1)
        padding = dilation * (kernel.shape[-1] // 2)
        found.append(F.conv2d(copies, kernel, padding=padding, dilation=dilation, groups=len(kernel)))
    return torch.cat(found, dim=1) if len(found) > 1 else found[0]


def _rows(x: Tensor, rows: int) -> Tensor:
    """``[N, rows * C, H, W]`` -> ``[N, rows, C, H * W]``."""
    return x.unflatten(1, (rows, -1)).flatten(3)


def separable(x: Tensor, pointwise: Tensor, kernels: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    """The result of a bank by differentiable operations alone; what the fast way must equal."""
    mixed = torch.matmul(pointwise, _rows(_depthwise(x, kernels, dilations), len(pointwise)))
    return mixed.flatten(1, 2).unflatten(2, x.shape[2:])


class _Separable(torch.autograd.Function):
    """:func:`separable` with a backward pass of forward convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pointwise: Tensor, dilations: Sequence[int], *kernels: Tensor) -> Tensor:
        between = _rows(_depthwise(x, kernels, dilations), len(pointwise))
        ctx.dilations = dilations
        ctx.save_for_backward(x, pointwise, between, *kernels)
        return torch.matmul(pointwise, between).flatten(1, 2).unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, pointwise, between, *kernels = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs = (x, pointwise, *kernels)
            of_x, of_pointwise, *of_kernels = gradients([separable(x, pointwise, kernels, ctx.dilations)], inputs, [grad])
            return of_x, of_pointwise, None, *of_kernels
        rows = _rows(grad, len(pointwise))
        grad_pointwise = torch.matmul(rows, between.mT).sum(0)
        grad_between = torch.matmul(pointwise.mT, rows).flatten(1, 2).unflatten(2, x.shape[2:])
        grad_x, grad_kernels, start = None, [], 0
        for kernel, dilation in zip(kernels, ctx.dilations, strict=True):
            own = grad_between[:, start : start + len(kernel)]
            copies = len(kernel) // x.shape[1]
            term = input_gradient(own, kernel, dilation).unflatten(1, (copies, -1)).sum(1)
            grad_x = term if grad_x is None else grad_x.add_(term)
            grad_kernels.append(weight_gradient(x.repeat(1, copies, 1, 1), own, kernel, dilation))
            start += len(kernel)
        return grad_x, grad_pointwise, None, *grad_kernels
