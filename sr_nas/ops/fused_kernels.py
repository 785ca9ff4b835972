"""Kernels of many candidates as the kernels of few convolutions, of many mixed operations at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sr_nas.ops.differentiable import gradients
from sr_nas.ops.fused_wide import Part, Wide, spread

Columns = list[list[Tensor | None]]
"""Of every group weight, bias, ... of all its parts, ``[operations, parts, ...]`` each."""


class Assembly:
    """The wide convolutions of mixed operations that are alike.

    All operations, and in each the separable parts of one shape, are computed together: the kernels are small, and launching
    is what they would cost.

    Args:
        operations: of each operation its wide convolutions; their signatures must agree.
    """

    def __init__(self, operations: Sequence[Sequence[Wide]]) -> None:
        self.wides = operations[0]
        self.groups = [[(number, self.wides[number].parts[index]) for number, index in group] for group in alike(self.wides)]
        self.tensors: list[Tensor | None] = []
        """As they are now: a caller may replace them for a call (``torch.func.functional_call``)."""
        for group in alike(self.wides):
            stages = [wides[number].parts[index].stage for wides in operations for number, index in group]
            self.tensors += [tensor for column in zip(*(stage.tensors() for stage in stages), strict=True) for tensor in column]

    def __call__(self, weights: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Kernels ``[operations, rows * C_out, C_in, k, k]`` and biases ``[operations, rows * C_out]`` of every wide convolution.

        Args:
            weights: ``[operations, candidates]``.
        """
        found = _Assemble.apply(self, weights, *self.tensors)
        return list(found[::2]), list(found[1::2])

    def factors(self, weights: Tensor) -> list[Tensor]:
        """What every part of every group is multiplied by, its weight or 1: ``[operations, parts]``."""
        extended = torch.cat((weights, weights.new_ones(len(weights), 1)), dim=1)
        return [extended[:, places] for places in self.places(weights)]

    def places(self, weights: Tensor) -> list[list[int]]:
        """Of every part of every group the place of its weight, one past the end where it has none."""
        last = weights.shape[1]
        return [[last if part.weight is None else part.weight for _, part in group] for group in self.groups]

    def columns(self, tensors: Sequence[Tensor | None], operations: int) -> Columns:
        """Stack the tensors of every group."""
        found, start = [], 0
        for group in self.groups:
            stacked = []
            for _ in group[0][1].stage.tensors():
                column = [tensor for tensor in tensors[start : start + operations * len(group)] if tensor is not None]
                stacked.append(torch.stack(column).unflatten(0, (operations, -1)) if column else None)
                start += operations * len(group)
            found.append(stacked)
        return found


def alike(wides: Sequence[Wide]) -> list[list[tuple[int, int]]]:
    """Group the parts by the shapes of their tensors; a part is named by its convolution's number and its own."""
    groups: dict[Any, list[tuple[int, int]]] = {}
    for number, wide in enumerate(wides):
        for index, part in enumerate(wide.parts):
            groups.setdefault(part.shapes, []).append((number, index))
    return list(groups.values())


def dense(columns: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Dense kernels ``[..., C_out, C_in, k, k]`` and biases ``[..., C_out]`` of stages; of a separable one, the outer product."""
    kernel, bias = columns[:2]
    assert kernel is not None
    if len(columns) == 2:
        return kernel, bias
    pointwise, last = columns[2:]
    assert pointwise is not None
    # A product and a sum, since a matrix product would be done in half precision under autocast.
    through = None if bias is None else (pointwise.flatten(-3) * bias[..., None, :]).sum(-1)
    product = pointwise * kernel.transpose(-3, -4)
    return product, last if through is None else through if last is None else through + last


class _Assemble(torch.autograd.Function):
    """Weights and the parts' tensors -> kernel and bias of every wide convolution."""

    @staticmethod
    def forward(ctx: Any, assembly: Assembly, weights: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.assembly = assembly
        ctx.save_for_backward(weights, *tensors)
        ctx.set_materialize_grads(False)
        operations = len(weights)
        kernels: list[Tensor | None] = [None] * len(assembly.wides)
        biases: list[Tensor | None] = [None] * len(assembly.wides)
        columns = assembly.columns(tensors, operations)
        for group, stacked, factors in zip(assembly.groups, columns, assembly.factors(weights), strict=True):
            small, offset = dense(stacked)
            small = small * factors.to(small.dtype)[..., None, None, None, None]
            offset = None if offset is None else offset * factors.to(offset.dtype)[..., None]
            for index, (number, part) in enumerate(group):
                wide = assembly.wides[number]
                if kernels[number] is None:
                    kernels[number] = small.new_zeros(operations, *wide.shape)
                kernels[number][:, part.channels][wide.taps(part.stage)].add_(small[:, index])  # type: ignore[index]
                if offset is not None:
                    if biases[number] is None:
                        biases[number] = offset.new_zeros(operations, wide.shape[0])
                    biases[number][:, part.channels].add_(offset[:, index])  # type: ignore[index]
        return tuple(tensor for pair in zip(kernels, biases, strict=True) for tensor in pair)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        assembly: Assembly = ctx.assembly
        weights, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *gradients(assemble(assembly, weights, tensors), (weights, *tensors), grads)
        operations = len(weights)
        grad_weights = weights.new_zeros(operations, weights.shape[1] + 1)
        found: list[Tensor | None] = []
        columns = assembly.columns(tensors, operations)
        for group, stacked, factors, places in zip(
            assembly.groups, columns, assembly.factors(weights), assembly.places(weights), strict=True
        ):
            taps = torch.stack([_gradient(assembly, stacked, grads, number, part, False) for number, part in group], dim=1)
            sums = None
            if stacked[1] is not None or stacked[-1] is not None:
                sums = torch.stack([_gradient(assembly, stacked, grads, number, part, True) for number, part in group], dim=1)
            own = _gradients(stacked, taps, sums)
            # What is added is linear in the last convolution's tensors, and so their gradients give those of the weights.
            for column, gradient in zip(stacked[-2:], own[-2:], strict=True):
                if column is not None and gradient is not None:
                    grad_weights[:, places] += (column * gradient).flatten(2).sum(2).to(weights.dtype)
            for gradient in own:
                if gradient is not None:
                    gradient.mul_(factors.to(gradient.dtype).view(operations, -1, *[1] * (gradient.ndim - 2)))
                found += [None] * operations * len(group) if gradient is None else gradient.flatten(0, 1).unbind()
        return None, grad_weights[:, :-1], *found


def _gradient(
    assembly: Assembly, stacked: list[Tensor | None], grads: Sequence[Tensor | None], number: int, part: Part, bias: bool
) -> Tensor:
    """Of a part's dense kernels or biases; 0 where nothing depends on them."""
    grad, wide = grads[2 * number + bias], assembly.wides[number]
    if grad is None:
        like = stacked[0]
        assert like is not None
        grad = like.new_zeros(len(like), *(wide.shape[:1] if bias else wide.shape))
    return grad[:, part.channels] if bias else grad[:, part.channels][wide.taps(part.stage)]


def _gradients(columns: Sequence[Tensor | None], taps: Tensor, sums: Tensor | None) -> list[Tensor | None]:
    """Gradients of the stages' tensors from those of their dense kernels and biases."""
    if len(columns) == 2:
        return [taps, sums]
    depthwise, bias, pointwise, last = columns
    assert depthwise is not None and pointwise is not None
    grad_depthwise = (taps * pointwise).sum(-4).unsqueeze(-3)
    grad_pointwise = (taps * depthwise.transpose(-3, -4)).sum((-1, -2), keepdim=True)
    grad_bias = None
    if bias is not None:
        assert sums is not None
        grad_pointwise += (sums[..., None] * bias[..., None, :])[..., None, None]
        grad_bias = (pointwise.flatten(-3) * sums[..., None]).sum(-2)
    return [grad_depthwise, grad_bias, grad_pointwise, sums if last is not None else None]


def assemble(assembly: Assembly, weights: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Kernels and biases by differentiable operations alone; what the fast way must equal."""
    kernels = [[[] for _ in range(wide.rows)] for wide in assembly.wides]  # type: list[list[list[Tensor]]]
    biases = [[[] for _ in range(wide.rows)] for wide in assembly.wides]  # type: list[list[list[Tensor]]]
    columns = assembly.columns(tensors, len(weights))
    for group, stacked, factors in zip(assembly.groups, columns, assembly.factors(weights), strict=True):
        small, offset = dense(stacked)
        for index, (number, part) in enumerate(group):
            wide, stage = assembly.wides[number], part.stage
            factor = factors[:, index, None]
            padded = spread(small[:, index], stage, wide.kernel, wide.dilation)
            kernels[number][part.row].append(factor[..., None, None, None] * padded)
            if offset is not None:
                biases[number][part.row].append(factor * offset[:, index])
    found: list[Tensor | None] = []
    for kernel_rows, bias_rows, wide in zip(kernels, biases, assembly.wides, strict=True):
        found.append(torch.cat([torch.stack(row).sum(0) for row in kernel_rows], dim=1))
        none = weights.new_zeros(len(weights), wide.parts[0].stage.out_channels)
        rows = [torch.stack(row).sum(0) if row else none for row in bias_rows]
        found.append(torch.cat(rows, dim=1) if any(bias_rows) else None)
    return found
