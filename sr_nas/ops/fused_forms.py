"""Parts of the fused mixed operation: parsing candidates into convolutions (:class:`Form`), merging convolutions that read the
same input (:class:`Wide`), fast depthwise gradients on the CPU, and BatchNorm plus weighted sum in one step.
"""

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
    """:func:`torch.autograd.grad` that skips ``None`` and tensors without a gradient, and returns zeros for unused inputs."""
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
    if (weight.shape[-1] <= 3 and dilation == 1) or not fast_gradients(x):
        return F.conv2d(x, weight, bias, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=len(weight))
    result: Tensor = _Depthwise.apply(x, weight, bias, dilation)
    return result


def fast_gradients(x: Tensor) -> bool:
    """Whether gradients computed as forward convolutions are faster: in float32 and float64 on the CPU, as far as measured."""
    return x.device.type == "cpu" and x.dtype not in HALVES and not torch.is_autocast_enabled("cpu")


def input_gradient(grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Input gradient of :func:`depthwise`."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(grad, weight.flip(2, 3), padding=padding, dilation=dilation, groups=len(weight))


def weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Weight gradient of :func:`depthwise`: each channel correlated with its output gradient, with the dilation as stride."""
    kernel = _side_by_side(grad).transpose(0, 1)
    padding = dilation * (weight.shape[-1] // 2)
    each = F.conv2d(_side_by_side(x), kernel, padding=padding, stride=dilation, groups=len(kernel))
    return each.view(len(x), *weight.shape).sum(0)


class _Depthwise(torch.autograd.Function):
    # Both passes are made of differentiable operations, so double backward works without further code.

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
    """``[N, C, H, W]`` -> ``[1, N * C, H, W]`` in the memory format of ``x``."""
    if x[0].is_contiguous():
        return x.flatten(0, 1)[None]
    return x.permute(2, 3, 0, 1).flatten(2, 3).permute(2, 0, 1)[None]


@dataclass(frozen=True, eq=False)
class Stage:
    """An optional ReLU followed by a dense convolution, or by a depthwise and a pointwise one.

    It holds modules and not their tensors, since ``torch.func.functional_call`` may replace those.
    """

    relu: bool
    convolutions: tuple[nn.Conv2d, ...]

    @property
    def separable(self) -> bool:
        return len(self.convolutions) == 2

    @property
    def kernel(self) -> int:
        return self.convolutions[0].kernel_size[0]

    @property
    def dilation(self) -> int:
        return self.convolutions[0].dilation[0]

    @property
    def out_channels(self) -> int:
        return self.convolutions[-1].out_channels

    def tensors(self) -> list[Tensor | None]:
        """Current weight and bias of every convolution."""
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
    """A candidate: a sequence of stages, followed by a BatchNorm or by none."""

    stages: tuple[Stage, ...]
    norm: nn.BatchNorm2d | None


def recognise(candidate: nn.Module) -> Form | None:
    """Parse a candidate into a :class:`Form`; ``None`` for any other structure. A subclass of a layer never matches."""
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


@dataclass(frozen=True, eq=False)
class Part:
    """One candidate's kernel within a :class:`Wide` convolution.

    Attributes:
        stage: the candidate's convolution.
        row: block of output channels that it is added to.
        weight: index of its weight in the mixed operation; ``None`` to add it unweighted.
    """

    stage: Stage
    row: int
    weight: int | None

    @property
    def channels(self) -> slice:
        size = self.stage.out_channels
        return slice(self.row * size, (self.row + 1) * size)

    @property
    def shapes(self) -> tuple[Any, ...]:
        return tuple(None if tensor is None else tensor.shape for tensor in self.stage.tensors())

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for parts of different operations that can be batched."""
        return self.row, self.weight, self.stage.kernel, self.stage.dilation, self.shapes


@dataclass(frozen=True, eq=False)
class Wide:
    """One dense convolution that computes several candidates on the same input.

    Attributes:
        source: index of the input.
        kernel: side of the kernel.
        dilation: distance of its taps.
        parts: the candidates' kernels.
        rows: number of blocks of output channels.
        summed: whether the first block is a weighted sum; each other block is one candidate.
    """

    source: int
    kernel: int
    dilation: int
    parts: tuple[Part, ...]
    rows: int
    summed: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the kernel."""
        stage = self.parts[0].stage
        return self.rows * stage.out_channels, stage.convolutions[0].in_channels, self.kernel, self.kernel

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for convolutions of different operations that can be batched."""
        return self.source, self.kernel, self.dilation, self.rows, self.summed, *(part.signature for part in self.parts)

    def taps(self, stage: Stage) -> tuple[Any, slice, slice]:
        """Index of a stage's taps within the wide kernel."""
        step = max(1, stage.dilation // self.dilation)
        edge = self.kernel // 2 - step * (stage.kernel // 2)
        along = slice(edge, self.kernel - edge, step)
        return ..., along, along

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Convolve ``[N, C_in, H, W]``; the result has ``rows`` blocks of C_out channels."""
        return F.conv2d(x, kernel, None, padding=self.dilation * (self.kernel // 2), dilation=self.dilation)


ROOM = (0, 3, 4)
"""Batch, height and width of ``[N, blocks, C, H, W]``."""

Parts = Sequence[tuple[Tensor, int]]
"""Blocks of channels, ``[N, blocks * C, H, W]``, and how many leading blocks are added without normalisation."""


def normalised_sum(scale: Tensor, shift: Tensor, eps: float, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of B blocks behind BatchNorms, and of blocks without.

    It is ``sum_b scale_b (z_b - mean_b) / sqrt(var_b + eps) + sum_a z_a + shift``, with scale ``[B, C]`` and shift ``[C]``.

    Returns:
        The sum ``[N, C, H, W]``, and mean and biased variance of the normalised blocks, ``[B, C]``.
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
    """Evaluation mode: ``sum_b factor_b * (z_b - mean_b) + sum_a z_a + shift``; shapes as in :func:`normalised_sum`."""
    total = _first(shift, parts)
    for own, blocks in _normalised(factor, parts):
        total = _add_up(total, blocks - mean[own, :, None, None], factor[own])
    return total.to(parts[0][0].dtype)


def _first(shift: Tensor, parts: Parts) -> Tensor:
    """Sum of the shift and the blocks that are not normalised."""
    total = shift[:, None, None]
    for part, leads in parts:
        for lead in part.split(len(shift), dim=1)[:leads]:
            total = total + lead
    return total


def _normalised(scale: Tensor, parts: Parts) -> Iterator[tuple[slice, Tensor]]:
    """Yield the normalised blocks of every part, ``[N, blocks, C, H, W]``, with their slice of B."""
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
    """Update running statistics as BatchNorm does, with the unbiased variance of a batch of ``count`` values per channel."""
    unbiased = variance * (count / (count - 1))
    for norm, new_mean, new_variance in zip(norms, mean.unbind(), unbiased.unbind(), strict=True):
        assert norm.momentum is not None
        norm.running_mean.lerp_(new_mean, norm.momentum)  # type: ignore[union-attr]
        norm.running_var.lerp_(new_variance, norm.momentum)  # type: ignore[union-attr]
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]


class NormalisedSum(torch.autograd.Function):
    """:func:`normalised_sum` with a backward pass that needs only its inputs, so that no normalised tensor is saved."""

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
    """Differentiable backward pass, for double backward."""
    # A part that was not saved enters linearly, so that zeros of its shape have the same gradient.
    channels = len(shift)
    stands = [
        grad.new_zeros(len(grad), lead * channels, *grad.shape[2:], requires_grad=True) if part is None else part
        for part, lead in zip(parts, leads, strict=True)
    ]
    result = normalised_sum(scale, shift, eps, list(zip(stands, leads, strict=True)))[0]
    of_scale, of_shift, *of_parts = gradients([result], [scale, shift, *stands], [grad])
    return of_scale, of_shift, None, None, *of_parts
