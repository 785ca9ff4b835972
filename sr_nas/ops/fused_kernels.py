"""Kernels of many candidates as the kernels of few convolutions, with a backward pass of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.ops.fused_forms import Stage


@dataclass(frozen=True, eq=False)
class Part:
    """One candidate's kernel in a wide one.

    Attributes:
        stage: the candidate's convolution.
        row: which block of output channels it is added to.
        weight: place of its weight among those of the mixed operation; ``None`` to add it unweighted.
    """

    stage: Stage
    row: int
    weight: int | None

    @property
    def channels(self) -> slice:
        """Output channels it is added to."""
        size = self.stage.out_channels
        return slice(self.row * size, (self.row + 1) * size)


@dataclass(frozen=True, eq=False)
class Wide:
    """One convolution that does the work of several on the same input.

    Attributes:
        source: what it reads.
        kernel: side of its kernel.
        dilation: distance of its taps.
        parts: what is in it.
        rows: how many blocks of output channels it has.
        summed: whether the first block is a weighted sum; the others belong to one candidate each.
    """

    source: int
    kernel: int
    dilation: int
    parts: tuple[Part, ...]
    rows: int
    summed: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its kernel."""
        stage = self.parts[0].stage
        return self.rows * stage.out_channels, stage.convolutions[0].in_channels, self.kernel, self.kernel

    def taps(self, stage: Stage) -> tuple[Any, slice, slice]:
        """Which taps of the wide kernel those of a stage are."""
        step = max(1, stage.dilation // self.dilation)
        edge = self.kernel // 2 - step * (stage.kernel // 2)
        along = slice(edge, self.kernel - edge, step)
        return ..., along, along

    def convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve ``[N, C_in, H, W]``; the result has ``rows`` blocks of C_out channels."""
        return F.conv2d(x, kernel, bias, padding=self.dilation * (self.kernel // 2), dilation=self.dilation)


def covers(kernel: int, dilation: int, stage: Stage) -> bool:
    """Whether every tap of the stage's kernel is a tap of the given one."""
    if stage.kernel == 1:
        return True
    return stage.dilation % dilation == 0 and stage.dilation * (stage.kernel - 1) <= dilation * (kernel - 1)


class Assembly:
    """All wide convolutions of a mixed operation.

    Separable parts of one shape are computed together: the kernels are small, and launching is what they would cost.
    """

    def __init__(self, wides: Iterable[Wide]) -> None:
        self.wides = list(wides)
        places = [(number, part) for number, wide in enumerate(self.wides) for part in wide.parts]
        groups: dict[Any, list[tuple[int, Part]]] = {}
        for number, part in places:
            shape = [tensor is None or tensor.shape for tensor in part.stage.tensors()]
            groups.setdefault(tuple(shape), []).append((number, part))
        self.groups = list(groups.values())
        self._weights: dict[torch.device, list[Tensor]] = {}

    def tensors(self) -> list[Tensor | None]:
        """The parts' tensors as they are now."""
        return [tensor for group in self.groups for column in zip(*_tensors(group), strict=True) for tensor in column]

    def kernels(self, weights: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Kernel and bias of every wide convolution."""
        found = _Assemble.apply(self, weights, *self.tensors())
        return list(zip(found[::2], found[1::2], strict=True))

    def factors(self, weights: Tensor) -> list[Tensor]:
        """What every part of every group is multiplied by: its weight or 1."""
        extended = torch.cat((weights, weights.new_ones(1)))
        return [extended[places] for places in self.places(weights)]

    def places(self, weights: Tensor) -> list[Tensor]:
        """Of every part of every group the place of its weight, one past the end where it has none."""
        if weights.device not in self._weights:
            self._weights[weights.device] = [
                torch.tensor([len(weights) if part.weight is None else part.weight for _, part in group], device=weights.device)
                for group in self.groups
            ]
        return self._weights[weights.device]

    def columns(self, tensors: Sequence[Tensor | None]) -> list[list[Tensor | None]]:
        """Of every group weight, bias, ... of all its parts, stacked."""
        found, start = [], 0
        for group in self.groups:
            stacked = []
            for _ in group[0][1].stage.tensors():
                column = [tensor for tensor in tensors[start : start + len(group)] if tensor is not None]
                stacked.append(torch.stack(column) if column else None)
                start += len(group)
            found.append(stacked)
        return found


def _tensors(group: list[tuple[int, Part]]) -> list[list[Tensor | None]]:
    return [part.stage.tensors() for _, part in group]


def dense(columns: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Dense kernels ``[m, C_out, C_in, k, k]`` and biases ``[m, C_out]`` of m stages; of a separable one, the outer product."""
    kernel, bias = columns[:2]
    assert kernel is not None
    if len(columns) == 2:
        return kernel, bias
    pointwise, last = columns[2:]
    assert pointwise is not None
    # A product and a sum, since a matrix product would be done in half precision under autocast.
    through = None if bias is None else (pointwise.flatten(2) * bias[:, None]).sum(2)
    product = pointwise * kernel.transpose(1, 2)
    return product, last if through is None else through if last is None else through + last


class _Assemble(torch.autograd.Function):
    """Weights and the parts' tensors -> kernel ``[rows * C_out, C_in, k, k]`` and bias of every wide convolution."""

    @staticmethod
    def forward(ctx: Any, assembly: Assembly, weights: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.assembly, ctx.columns, ctx.factors = assembly, assembly.columns(tensors), assembly.factors(weights)
        ctx.save_for_backward(weights, *tensors)
        ctx.set_materialize_grads(False)
        kernels: list[Tensor | None] = [None] * len(assembly.wides)
        biases: list[Tensor | None] = [None] * len(assembly.wides)
        for group, columns, factors in zip(assembly.groups, ctx.columns, ctx.factors, strict=True):
            small, offset = dense(columns)
            small = small * factors.to(small.dtype)[:, None, None, None, None]
            offset = None if offset is None else offset * factors.to(offset.dtype)[:, None]
            for index, (number, part) in enumerate(group):
                wide = assembly.wides[number]
                if kernels[number] is None:
                    kernels[number] = small.new_zeros(wide.shape)
                kernels[number][part.channels][wide.taps(part.stage)].add_(small[index])  # type: ignore[index]
                if offset is not None:
                    if biases[number] is None:
                        biases[number] = offset.new_zeros(wide.shape[0])
                    biases[number][part.channels].add_(offset[index])  # type: ignore[index]
        return tuple(tensor for pair in zip(kernels, biases, strict=True) for tensor in pair)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        assembly: Assembly = ctx.assembly
        weights, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(assembly, weights, tensors, grads)
        grad_weights = weights.new_zeros(len(weights) + 1)
        found: list[Tensor | None] = []
        for group, columns, factors, places in zip(
            assembly.groups, ctx.columns, ctx.factors, assembly.places(weights), strict=True
        ):
            taps = torch.stack([_gradient(assembly, grads, number, part, False) for number, part in group])
            sums = None
            if columns[1] is not None or columns[-1] is not None:
                sums = torch.stack([_gradient(assembly, grads, number, part, True) for number, part in group])
            stacked = _gradients(columns, taps, sums)
            # What is added is linear in the last convolution's tensors, and so their gradients give those of the weights.
            for column, gradient in zip(columns[-2:], stacked[-2:], strict=True):
                if column is not None and gradient is not None:
                    grad_weights.index_add_(0, places, (column * gradient).flatten(1).sum(1).to(weights.dtype))
            for gradient in stacked:
                if gradient is not None:
                    gradient.mul_(factors.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1)))
                found += [None] * len(group) if gradient is None else gradient.unbind()
        return None, grad_weights[:-1], *found


def _gradient(assembly: Assembly, grads: Sequence[Tensor | None], number: int, part: Part, bias: bool) -> Tensor:
    """Of a part's dense kernel or bias; 0 where nothing depends on it."""
    grad, wide = grads[2 * number + bias], assembly.wides[number]
    if grad is None:
        like = next(tensor for tensor in part.stage.tensors() if tensor is not None)
        grad = like.new_zeros(wide.shape[:1] if bias else wide.shape)
    return grad[part.channels] if bias else grad[part.channels][wide.taps(part.stage)]


def _gradients(columns: Sequence[Tensor | None], taps: Tensor, sums: Tensor | None) -> list[Tensor | None]:
    """Gradients of m stages' tensors from those of their dense kernels and biases."""
    if len(columns) == 2:
        return [taps, sums]
    depthwise, bias, pointwise, last = columns
    assert depthwise is not None and pointwise is not None
    grad_depthwise = (taps * pointwise).sum(1).unsqueeze(2)
    grad_pointwise = (taps * depthwise.transpose(1, 2)).sum((3, 4), keepdim=True)
    grad_bias = None
    if bias is not None:
        assert sums is not None
        grad_pointwise += (sums[:, :, None] * bias[:, None])[..., None, None]
        grad_bias = (pointwise.flatten(2) * sums[:, :, None]).sum(1)
    return [grad_depthwise, grad_bias, grad_pointwise, sums if last is not None else None]


def _differentiable(
    assembly: Assembly, weights: Tensor, tensors: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The backward pass as a graph, for a gradient of gradients."""
    pairs = zip(assemble(assembly, weights, tensors), grads, strict=True)
    outputs, incoming = zip(*((result, grad) for result, grad in pairs if result is not None and grad is not None), strict=True)
    wanted = [tensor for tensor in (weights, *tensors) if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, incoming, create_graph=True, allow_unused=True))
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in (weights, *tensors)]


def assemble(assembly: Assembly, weights: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Kernels and biases by differentiable operations alone; what the fast way must equal."""
    kernels = [[[] for _ in range(wide.rows)] for wide in assembly.wides]  # type: list[list[list[Tensor]]]
    biases = [[[] for _ in range(wide.rows)] for wide in assembly.wides]  # type: list[list[list[Tensor]]]
    for group, columns, factors in zip(assembly.groups, assembly.columns(tensors), assembly.factors(weights), strict=True):
        small, offset = dense(columns)
        for index, (number, part) in enumerate(group):
            wide, stage = assembly.wides[number], part.stage
            step = max(1, stage.dilation // wide.dilation)
            gaps = F.pad(small[index][..., None, :, None], (0, step - 1, 0, 0, 0, step - 1)).flatten(4, 5).flatten(2, 3)
            side = step * (stage.kernel - 1) + 1
            kernels[number][part.row].append(factors[index] * F.pad(gaps[..., :side, :side], ((wide.kernel - side) // 2,) * 4))
            if offset is not None:
                biases[number][part.row].append(factors[index] * offset[index])
    found: list[Tensor | None] = []
    for kernel_rows, bias_rows, wide in zip(kernels, biases, assembly.wides, strict=True):
        found.append(torch.cat([torch.stack(row).sum(0) for row in kernel_rows]))
        none = weights.new_zeros(wide.parts[0].stage.out_channels)
        found.append(torch.cat([torch.stack(row).sum(0) if row else none for row in bias_rows]) if any(bias_rows) else None)
    return found
