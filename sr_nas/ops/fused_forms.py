"""Parts of the fused mixed operation: recognised candidates, merged convolutions, depthwise gradients, joint BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


# The halves of a depthwise-separable convolution, with gradients that are fast on
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


# What a candidate is made of, as far as a fused execution can know it.


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


# Convolutions that do the work of several: which kernels are in them, and where.


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


# BatchNorm of several candidates and their weighted sum in one step; no
# normalised tensor is kept.


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
