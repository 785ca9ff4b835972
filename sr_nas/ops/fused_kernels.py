"""Kernels of the fused mixed operation: :class:`Assembly` builds dense kernels for many operations at once, :class:`Join` sums
depthwise-separable candidates without BatchNorm, :class:`Bank` runs separable convolutions of one input in few calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.ops.fused_forms import (
    Form,
    Part,
    Stage,
    Wide,
    fast_gradients,
    gradients,
    input_gradient,
    weight_gradient,
)

Columns = list[list[Tensor | None]]
"""Per group of equal parts: stacked weights, biases, ..., each ``[operations, parts, ...]``."""


class Assembly:
    """Computes the kernels of the wide convolutions of several mixed operations with equal signatures.

    All operations, and in each the parts of one shape, are batched: kernels are small, and one launch each would dominate.
    """

    def __init__(self, operations: Sequence[Sequence[Wide]]) -> None:
        self.wides = operations[0]
        self.groups = [[(number, self.wides[number].parts[index]) for number, index in group] for group in alike(self.wides)]
        self.tensors: list[Tensor | None] = []
        # Current tensors, since torch.func.functional_call may replace them for a call.
        for group in alike(self.wides):
            stages = [wides[number].parts[index].stage for wides in operations for number, index in group]
            self.tensors += [tensor for column in zip(*(stage.tensors() for stage in stages), strict=True) for tensor in column]

    def __call__(self, weights: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Kernels ``[operations, rows * C_out, C_in, k, k]`` and biases ``[operations, rows * C_out]`` of every wide convolution.

        ``weights`` is ``[operations, candidates]``.
        """
        found = _Assemble.apply(self, weights, *self.tensors)
        return list(found[::2]), list(found[1::2])

    def factors(self, weights: Tensor) -> list[Tensor]:
        """Factor of every part, its weight or 1: ``[operations, parts]`` per group."""
        extended = torch.cat((weights, weights.new_ones(len(weights), 1)), dim=1)
        return [extended[:, places] for places in self.places(weights)]

    def places(self, weights: Tensor) -> list[list[int]]:
        """Index of every part's weight, per group; one past the end for parts without a weight."""
        last = weights.shape[1]
        return [[last if part.weight is None else part.weight for _, part in group] for group in self.groups]

    def columns(self, tensors: Sequence[Tensor | None], operations: int) -> Columns:
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
    """Group parts by tensor shapes; a part is (number of its convolution, index in it)."""
    groups: dict[Any, list[tuple[int, int]]] = {}
    for number, wide in enumerate(wides):
        for index, part in enumerate(wide.parts):
            groups.setdefault(part.shapes, []).append((number, index))
    return list(groups.values())


def dense(columns: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Dense kernels ``[..., C_out, C_in, k, k]`` and biases ``[..., C_out]`` of stages; a separable one is multiplied out."""
    kernel, bias = columns[:2]
    assert kernel is not None
    if len(columns) == 2:
        return kernel, bias
    pointwise, last = columns[2:]
    assert pointwise is not None
    # Not a matrix product, which autocast would compute in half precision.
    through = None if bias is None else (pointwise.flatten(-3) * bias[..., None, :]).sum(-1)
    product = pointwise * kernel.transpose(-3, -4)
    return product, last if through is None else through if last is None else through + last


class _Assemble(torch.autograd.Function):
    """:func:`assemble` with a faster forward and backward pass."""

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
            # A part is linear in its last convolution, whose gradients therefore give those of the architecture weights.
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
    """Gradient of a part's dense kernel or bias; zeros where nothing depends on it."""
    grad, wide = grads[2 * number + bias], assembly.wides[number]
    if grad is None:
        like = stacked[0]
        assert like is not None
        grad = like.new_zeros(len(like), *(wide.shape[:1] if bias else wide.shape))
    return grad[:, part.channels] if bias else grad[:, part.channels][wide.taps(part.stage)]


def _gradients(columns: Sequence[Tensor | None], taps: Tensor, sums: Tensor | None) -> list[Tensor | None]:
    """Gradients of the stages' tensors, from those of their dense kernels (``taps``) and biases (``sums``)."""
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
    """Reference implementation of :class:`_Assemble` in differentiable operations."""
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


Tensors = Sequence[Tensor | None]


class Join:
    """Weighted sum of candidates without BatchNorm whose last stages are separable; only the input is saved for backward.

    The "halves" (inputs of the last pointwise convolutions) are cheap to compute and large, so the backward pass recomputes them.

    Args:
        places: indices of the candidates' weights in the mixed operation.
        forms: of the candidates.
    """

    def __init__(self, places: Sequence[int], forms: Sequence[Form]) -> None:
        self.places, self.forms = list(places), list(forms)

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the sum for ``[N, C_in, H, W]``; ``weights`` are those of all candidates of the mixed operation."""
        own = weights[self.places].unbind()
        inner, kernels, bias = [], [], None
        for weight, form in zip(own, self.forms, strict=True):
            *before, kernel, offset = [tensor for stage in form.stages for tensor in stage.tensors()]
            inner += before
            assert kernel is not None
            kernels.append((weight * kernel).flatten(1))
            if offset is not None:
                bias = weight * offset if bias is None else bias + weight * offset
        if fast_gradients(x):
            result: Tensor = _Join.apply(self, x, torch.stack(kernels), *inner)
        else:
            result = _product(self.halves(x, inner), torch.stack(kernels))
        return result if bias is None else result + bias[:, None, None]

    def halves(self, x: Tensor, tensors: Tensors) -> list[Tensor]:
        """Inputs of the last pointwise convolutions; ``tensors`` are those of all other convolutions."""
        rest, found = list(tensors), []
        rectified = F.relu(x) if any(form.stages[0].relu for form in self.forms) else x
        for form in self.forms:
            h = rectified if form.stages[0].relu else x
            for stage, following in pairwise(form.stages):
                h = stage.run(h, [rest.pop(0) for _ in stage.tensors()])
                h = F.relu(h) if following.relu else h
            found.append(form.stages[-1].run_first(h, [rest.pop(0), rest.pop(0)]))
        return found


def _product(halves: Sequence[Tensor], kernels: Tensor) -> Tensor:
    """Reference implementation of :class:`_Join`: ``sum_i kernels_i halves_i`` at every pixel."""
    return F.conv2d(torch.cat(list(halves), dim=1), torch.cat(list(kernels), dim=1)[..., None, None])


class _Join(torch.autograd.Function):
    """Sum from the input, kernels ``[halves, C_out, C]``, and the tensors of :meth:`Join.halves`."""

    @staticmethod
    def forward(ctx: Any, join: Join, x: Tensor, kernels: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.join = join
        ctx.save_for_backward(x, kernels, *tensors)
        first, *rest = join.halves(x, tensors)
        total = torch.bmm(kernels[0].expand(len(x), -1, -1), first.flatten(2))
        for kernel, half in zip(kernels[1:], rest, strict=True):
            total.baddbmm_(kernel.expand(len(x), -1, -1), half.flatten(2))
        return total.unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, kernels, *tensors = ctx.saved_tensors
        join: Join = ctx.join
        if torch.is_grad_enabled():
            result = _product(join.halves(x, tensors), kernels)
            return None, *gradients([result], [x, kernels, *tensors], [grad])
        inputs = [None if one is None else one.detach().requires_grad_(one.requires_grad) for one in (x, *tensors)]
        first, *rest = inputs
        assert first is not None
        with torch.enable_grad():
            halves = join.halves(first, rest)
        flat = grad.flatten(2)
        of_kernels = torch.stack([torch.bmm(flat, half.detach().flatten(2).mT).sum(0) for half in halves])
        of_halves = [torch.bmm(kernel.mT.expand(len(x), -1, -1), flat).unflatten(2, x.shape[2:]) for kernel in kernels]
        of_x, *others = gradients(halves, inputs, of_halves, create_graph=False)
        return None, of_x, of_kernels, *others


Size = tuple[int, int]
"""Kernel side and dilation."""


@dataclass(frozen=True, eq=False)
class Bank:
    """Separable convolutions of one input: one depthwise call per kernel size, then one matrix product.

    Attributes:
        source: index of the input.
        stages: the convolutions; the first ``leads`` are summed without normalisation, the others are normalised.
        weights: indices of their weights in the mixed operation.
        leads: number of stages without normalisation.
        sizes: depthwise kernel that each is computed with; it may have more taps than the stage's own.
    """

    source: int
    stages: tuple[Stage, ...]
    weights: tuple[int, ...]
    leads: int
    sizes: tuple[Size, ...]

    @property
    def runs(self) -> list[tuple[Size, int]]:
        """Consecutive stages of one size: (size, number)."""
        return [(size, len(list(same))) for size, same in groupby(self.sizes)]

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for banks of different operations that can be batched."""
        shapes = [tensor is None or tensor.shape for stage in self.stages for tensor in stage.tensors()]
        return self.source, self.weights, self.leads, self.sizes, *shapes

    def __call__(self, x: Tensor, pointwise: Tensor, kernels: Sequence[Tensor]) -> Tensor:
        """Convolve ``[N, C_in, H, W]`` to ``[N, stages * C_out, H, W]``, without biases.

        ``pointwise`` is ``[stages, C_out, C_in]``, ``kernels`` per run ``[stages of the run * C_in, 1, k, k]``.
        """
        dilations = [dilation for (_, dilation), _ in self.runs]
        if not fast_gradients(x):
            return separable(x, pointwise, kernels, dilations)
        result: Tensor = _Separable.apply(x, pointwise, dilations, *kernels)
        return result


def shared_sizes(stages: Sequence[Stage]) -> list[Size]:
    """For every stage, the largest kernel size among all stages whose taps include its own."""
    own = sorted({(stage.kernel, stage.dilation) for stage in stages}, key=lambda size: (-size[0], size[1]))
    return [next(size for size in own if covers(*size, stage)) for stage in stages]


def _depthwise(x: Tensor, kernels: Sequence[Tensor], dilations: Sequence[int]) -> Tensor:
    """Depthwise convolutions of all runs: ``[N, stages * C_in, H, W]``."""
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
    """Reference implementation of :class:`_Separable` in differentiable operations."""
    mixed = torch.matmul(pointwise, _rows(_depthwise(x, kernels, dilations), len(pointwise)))
    return mixed.flatten(1, 2).unflatten(2, x.shape[2:])


class _Separable(torch.autograd.Function):
    """:func:`separable` with a backward pass made of forward convolutions."""

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


def covers(kernel: int, dilation: int, stage: Stage) -> bool:
    """Whether a kernel of this side and dilation has every tap of the stage's."""
    if stage.kernel == 1:
        return True
    return stage.dilation % dilation == 0 and stage.dilation * (stage.kernel - 1) <= dilation * (kernel - 1)


def spread(small: Tensor, stage: Stage, kernel: int, dilation: int) -> Tensor:
    """Pad and dilate a stage's kernels ``[..., k, k]`` with zeros to a size that covers them."""
    step = max(1, stage.dilation // dilation)
    gaps = F.pad(small[..., None, :, None], (0, step - 1, 0, 0, 0, step - 1)).flatten(-2, -1).flatten(-3, -2)
    side = step * (stage.kernel - 1) + 1
    return F.pad(gaps[..., :side, :side], ((kernel - side) // 2,) * 4)
