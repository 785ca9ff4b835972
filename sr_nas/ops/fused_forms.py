"""Backward passes as graphs, for functions whose own backward pass is no graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def gradients(
    outputs: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    create_graph: bool = True,
) -> list[Tensor | None]:
    """Return the gradient of every input that needs one, 0, not nothing, where none depends on it.

    Args:
        outputs: computed of the inputs by differentiable operations.
        inputs: ``None`` where an input is left out.
        grads: of the outputs; ``None`` where nothing depends on one.
        create_graph: whether the gradients are differentiable themselves.
    """
    pairs = [
        (result, grad)
        for result, grad in zip(outputs, grads, strict=True)
        if result is not None and grad is not None and result.requires_grad
    ]
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    if not wanted or not pairs:
        return [None] * len(inputs)
    results, incoming = zip(*pairs, strict=True)
    found = iter(
        torch.autograd.grad(results, wanted, incoming, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in inputs]


# MERGED sr_nas.ops.fused_forms: The halves of a depthwise-separable convolution, with gradients that are fast on
# the CPU.


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


# MERGED sr_nas.ops.fused_forms: What a candidate is made of, as far as a fused execution can know it.


@dataclass(frozen=True, eq=False)
class Stage:
    """An optional ReLU and a convolution behind it: a dense one, or a depthwise and a pointwise one.

    It holds the modules, never their tensors, which a caller may replace (``torch.func.functional_call``).
    """

    relu: bool
    convolutions: tuple[nn.Conv2d, ...]

    @property
    def separable(self) -> bool:
        """Whether it is a depthwise and a pointwise convolution."""
        return len(self.convolutions) == 2

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return self.convolutions[0].kernel_size[0]

    @property
    def dilation(self) -> int:
        """Distance of the kernel's taps."""
        return self.convolutions[0].dilation[0]

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return self.convolutions[-1].out_channels

    def tensors(self) -> list[Tensor | None]:
        """Weight and bias of every convolution, as they are now."""
        return [tensor for convolution in self.convolutions for tensor in (convolution.weight, convolution.bias)]

    def run(self, x: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
        """Run the convolutions, without the ReLU, with the given tensors in the order of :meth:`tensors`."""
        weight, bias = tensors[-2:]
        assert weight is not None
        if self.separable:
            return F.conv2d(self.run_first(x, tensors[:2]), weight, bias)
        return F.conv2d(x, weight, bias, padding=self.dilation * (self.kernel // 2), dilation=self.dilation)

    def run_first(self, x: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
        """Run the depthwise half of a separable stage with the given weight and bias."""
        weight, bias = tensors
        assert weight is not None
        return depthwise(x, weight, bias, self.dilation)


@dataclass(frozen=True, eq=False)
class Form:
    """A candidate: stages one after the other, and a BatchNorm behind the last or none."""

    stages: tuple[Stage, ...]
    norm: nn.BatchNorm2d | None


def recognise(candidate: nn.Module) -> Form | None:
    """Return the form of a candidate, or ``None`` for one that is anything else and has to run by itself.

    Types are compared exactly: a subclass may compute anything.
    """
    rest = _leaves(candidate)
    norm = None
    if rest and _plain_norm(rest[-1]):
        norm = cast(nn.BatchNorm2d, rest.pop())
    stages = []
    while rest:
        relu = type(rest[0]) is nn.ReLU
        depth = 2 if len(rest) > 1 + relu and _keeps_size(rest[relu]) and _depthwise(rest[relu]) else 1
        convolutions = rest[relu : relu + depth]
        if not _stage(convolutions):
            return None
        stages.append(Stage(relu, tuple(cast("list[nn.Conv2d]", convolutions))))
        rest = rest[relu + depth :]
    return Form(tuple(stages), norm) if stages else None


def _leaves(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for part in module for leaf in _leaves(part)]
    return [module]


def _stage(convolutions: list[nn.Module]) -> bool:
    if not convolutions or not all(_keeps_size(convolution) for convolution in convolutions):
        return False
    *first, last = cast("list[nn.Conv2d]", convolutions)
    return last.groups == 1 and (not first or last.kernel_size == (1, 1))


def _keeps_size(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:
        return False
    (kernel, width), (dilation, across) = module.kernel_size, module.dilation
    return (
        (kernel, dilation) == (width, across)
        and kernel % 2 == 1
        and module.stride == (1, 1)
        and module.padding == (dilation * (kernel // 2),) * 2
        and module.padding_mode == "zeros"
    )


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _plain_norm(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum is not None


# MERGED sr_nas.ops.fused_forms: Convolutions that do the work of several: which kernels are in them, and where.


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

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Of its tensors."""
        return tuple(None if tensor is None else tensor.shape for tensor in self.stage.tensors())

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal where two parts of different operations may be computed together."""
        return self.row, self.weight, self.stage.kernel, self.stage.dilation, self.shapes


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

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal where two convolutions of different operations may be computed together."""
        return self.source, self.kernel, self.dilation, self.rows, self.summed, *(part.signature for part in self.parts)

    def taps(self, stage: Stage) -> tuple[Any, slice, slice]:
        """Which taps of the wide kernel those of a stage are."""
        step = max(1, stage.dilation // self.dilation)
        edge = self.kernel // 2 - step * (stage.kernel // 2)
        along = slice(edge, self.kernel - edge, step)
        return ..., along, along

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve ``[N, C_in, H, W]``; the result has ``rows`` blocks of C_out channels."""
        return F.conv2d(x, kernel, None, padding=self.dilation * (self.kernel // 2), dilation=self.dilation)


def covers(kernel: int, dilation: int, stage: Stage) -> bool:
    """Whether every tap of the stage's kernel is a tap of the given one."""
    if stage.kernel == 1:
        return True
    return stage.dilation % dilation == 0 and stage.dilation * (stage.kernel - 1) <= dilation * (kernel - 1)


def spread(small: Tensor, stage: Stage, kernel: int, dilation: int) -> Tensor:
    """A stage's kernels ``[..., k, k]`` as kernels of a size that covers them, zero where they have no tap."""
    step = max(1, stage.dilation // dilation)
    gaps = F.pad(small[..., None, :, None], (0, step - 1, 0, 0, 0, step - 1)).flatten(-2, -1).flatten(-3, -2)
    side = step * (stage.kernel - 1) + 1
    return F.pad(gaps[..., :side, :side], ((kernel - side) // 2,) * 4)
