"""Fused mixed operation: same results as :class:`sr_nas.ops.mixed.MixedOp`, computed with few, large convolutions.

A :class:`Plan` assigns candidates to convolutions; :func:`prepare` computes the kernels of all operations of one plan at once.
Every part is differentiable twice, as second order needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sr_nas.ops.depthwise import depthwise
from sr_nas.ops.mixed import Builder, MixedOp
from sr_nas.ops.plan import Bank, Plan, few_calls, plan_of, recognise

Tensors = list[Tensor | None]


def prepare(plan: Plan, ops: Sequence[FusedMixedOp], weights: Tensor) -> list[Sequence[Tensor | None]]:
    """Compute the tensors of one pass of several operations, of one plan, in one batch.

    Args:
        plan: of the operations.
        ops: the operations.
        weights: ``[operations, candidates]``.

    Returns:
        For each operation its tensors in the order in which :meth:`FusedMixedOp._fused` reads them.
    """
    batch = _Batch(plan, ops)
    tensors: Tensors = []
    products: list[Tensor] = []
    offsets: list[Tensor] = []
    sides = {side: _frame_kernels(batch, weights, side) for side in {frame.kernel: None for frame in plan.frames}}
    for frame in plan.frames:
        tensors += sides[frame.kernel].pop(0)
    for bank in plan.banks:
        tensors += _bank_kernels(batch, bank)
        kernel, bias = batch.pointwise([*bank.summed, *bank.normed])
        summed, normed = _parted(kernel, len(bank.summed))
        summed_bias, normed_bias = ([], []) if bias is None else _parted(bias, len(bank.summed))
        if bank.normed:
            tensors += [*normed, normed_bias[0] if normed_bias else None]
        if bank.summed:
            scale = plan.choose(weights, bank.summed)[..., None]
            products.append((summed[0] * scale[..., None]).transpose(1, 2).flatten(2))
            offsets += [(scale * bias).sum(1) for bias in summed_bias]
    if products:  # the last pointwise convolutions of all sums, which are one
        tensors += [_joined(products, 2)[..., None, None], sum(offsets[1:], offsets[0]) if offsets else None]
    if plan.normed:
        affine = batch.norms("weight", "bias") * plan.choose(weights, plan.normed)[:, None, :, None]
        tensors += [*affine.flatten(2).unbind(1), *batch.norms("running_mean", "running_var").flatten(2).unbind(1)]
    none = [None] * len(ops)
    columns = [none if tensor is None else tensor.unbind() for tensor in tensors]
    return list(zip(*columns, strict=True))


class _Stack(torch.autograd.Function):
    """``torch.stack`` of tensors of operations times candidates, whose backward pass is one call."""

    @staticmethod
    def forward(ctx: Any, operations: int, *tensors: Tensor) -> Tensor:
        return torch.stack(tensors).unflatten(0, (operations, -1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *grad.flatten(0, 1).unbind()


@dataclass(frozen=True, eq=False)
class _Batch:
    """Several operations of one plan, whose tensors it stacks to ``[operations, candidates, ...]``."""

    plan: Plan
    ops: Sequence[FusedMixedOp]

    def kernels(self, indices: Sequence[int], half: int, level: int = -1, side: int = 0) -> Tensor:
        """Kernels ``[operations, candidates, C_out, C_in, k, k]`` of a convolution; with ``side``, padded to k = ``side``."""
        sizes: dict[int, list[int]] = {}
        for index in indices:
            sizes.setdefault(self._convolution(self.ops[0], index, half, level).kernel_size[0], []).append(index)
        stacks = []
        for k, same in sizes.items():
            stack = self._stack(self._convolution(op, index, half, level).weight for op in self.ops for index in same)
            stacks.append(F.pad(stack, ((side - k) // 2,) * 4) if k < side else stack)
        order = [index for same in sizes.values() for index in same]
        return self.plan.choose(_joined(stacks), [order.index(index) for index in indices])

    def biases(self, indices: Sequence[int], half: int, level: int = -1) -> Tensor | None:
        """Biases ``[operations, candidates, C_out]`` of a convolution that all of these have, or none."""
        if self._convolution(self.ops[0], indices[0], half, level).bias is None:
            return None
        return self._stack(cast(Tensor, self._convolution(op, i, half, level).bias) for op in self.ops for i in indices)

    def pointwise(self, indices: Sequence[int], level: int = -1) -> tuple[Tensor, Tensor | None]:
        """Kernels ``[operations, candidates, C_out, C_in]`` of pointwise convolutions, and the biases of both convolutions."""
        kernel = self.kernels(indices, 1, level).flatten(3).squeeze(3)
        inner, outer = self.biases(indices, 0, level), self.biases(indices, 1, level)
        if inner is None:
            return kernel, outer
        # Not a matrix product, which would round in half precision on some devices.
        through = (kernel * inner[:, :, None]).sum(-1)
        return kernel, through if outer is None else through + outer

    def norms(self, *names: str) -> Tensor:
        """Attributes of all BatchNorms, ``[operations, names, normalised candidates, C]``."""
        stack = self._stack(getattr(norm, name) for op in self.ops for name in names for norm in op.norms(self.plan))
        return stack.unflatten(1, (len(names), -1))

    def _stack(self, tensors: Iterable[Tensor]) -> Tensor:
        return cast(Tensor, _Stack.apply(len(self.ops), *tensors))

    def _convolution(self, op: FusedMixedOp, index: int, half: int, level: int) -> nn.Conv2d:
        return op.forms[index].convolutions[level][half]  # type: ignore[union-attr]


def _frame_kernels(batch: _Batch, weights: Tensor, side: int) -> list[Tensors]:
    """Kernel ``[operations, rows * C_out, C_in, side, side]`` and bias of every frame of one kernel size."""
    plan = batch.plan
    frames = [frame for frame in plan.frames if frame.kernel == side]
    kinds: dict[tuple[bool, tuple[bool, ...]], list[int]] = {}
    for index in (index for frame in frames for index in (*frame.summed, *frame.normed)):
        stage = plan.fused[index].stages[0]
        kinds.setdefault((stage.separable, stage.biases), []).append(index)
    kernels, biases = [], []
    for (separable, _), indices in kinds.items():
        indices.sort(key=lambda index: plan.fused[index].stages[0].kernel)
        kernel = batch.kernels(indices, 0, side=side)
        if separable:
            pointwise, bias = batch.pointwise(indices)
            kernel = pointwise[..., None, None] * kernel.transpose(2, 3)
        else:
            bias = batch.biases(indices, 0)
        kernels.append(kernel)
        biases.append(weights.new_zeros(*kernel.shape[:3]) if bias is None else bias)
    mixing = plan.mixing(weights, frames, [index for indices in kinds.values() for index in indices])

    def joined(parts: Sequence[Tensor]) -> Sequence[Tensor]:
        every = _joined(parts)
        every = every if mixing is None else torch.bmm(mixing, every.flatten(2)).unflatten(2, every.shape[2:])
        return every.flatten(1, 2).split([len(frame.rows) * plan.written for frame in frames], dim=1)

    has_bias = any(any(one) for _, one in kinds)
    offsets = joined(biases) if has_bias else [None] * len(frames)
    return [list(pair) for pair in zip(joined(kernels), offsets, strict=True)]


def _bank_kernels(batch: _Batch, bank: Bank) -> Tensors:
    """Depthwise kernel of every run, and between two stages the pointwise kernels and biases."""
    tensors: Tensors = []
    for level in range(len(bank.first)):
        sides = [max(bank.stages[index][level].kernel for index in run) for run in bank.runs]
        for side, same in groupby(range(len(sides)), sides.__getitem__):
            runs = [bank.runs[number] for number in same]
            indices, sizes = [index for run in runs for index in run], [len(run) for run in runs]
            tensors += [kernel.flatten(1, 2) for kernel in batch.kernels(indices, 0, level, side).split(sizes, dim=1)]
        if level + 1 < len(bank.first):
            tensors += batch.pointwise([index for run in bank.runs for index in run], level)
    return tensors


def normalise(norms: Sequence[nn.BatchNorm2d], z: Tensor, affine: Sequence[Tensor], training: bool) -> Tensor:
    """Return ``z`` behind BatchNorms that stand side by side, with another scale and shift; update their statistics in training.

    Args:
        norms: of equal eps and momentum.
        z: ``[N, C, H, W]``, C being the channels of all of them.
        affine: scale and shift instead of theirs, and copies of their running means and variances, each ``[C]``.
        training: whether statistics are those of the batch.
    """
    scale, shift, mean, variance = affine
    result = F.batch_norm(z, mean, variance, scale, shift, training, cast(float, norms[0].momentum), norms[0].eps)
    if training:
        sizes = [norm.num_features for norm in norms]
        with torch.no_grad():
            running = [cast(Tensor, norm.running_mean) for norm in norms] + [cast(Tensor, norm.running_var) for norm in norms]
            torch._foreach_copy_(running, [*mean.split(sizes), *variance.split(sizes)])
    return result


class FusedMixedOp(MixedOp):
    """:class:`MixedOp` with the sums reordered; arguments, parameters, their names and results are the same.

    A convolution is linear in its kernel, so candidates without BatchNorm that read the same input are one convolution with the
    weighted sum of their kernels. Candidates with BatchNorm are further channels of it, normalised and summed in one step.
    Separable candidates of many channels share depthwise and pointwise calls; of few channels they become dense. Other
    candidates run as they are. Hooks on candidates do not run.
    """

    def __init__(self, builders: Mapping[str, Builder], in_channels: int, out_channels: int, partial_channel: int = 1) -> None:
        super().__init__(builders, in_channels, out_channels, partial_channel)
        self.forms = [recognise(candidate) for candidate in self.candidates.values()]
        self.signatures = tuple(form and form.signature for form in self.forms)

    def norms(self, plan: Plan) -> list[nn.BatchNorm2d]:
        """The BatchNorms of the fused candidates, in the order of their outputs."""
        return [cast(nn.BatchNorm2d, self.forms[index].norm) for index in plan.normed]  # type: ignore[union-attr]

    @classmethod
    def bind(cls, ops: Sequence[MixedOp], weights: Sequence[Tensor]) -> list[Callable[[Tensor], Tensor]]:
        """See :meth:`MixedOp.bind`; operations of equal plan compute their kernels together."""
        alike: dict[tuple[bool, Plan], list[int]] = {}
        bound: list[Callable[[Tensor], Tensor]] = []
        for place, op in enumerate(cast("Sequence[FusedMixedOp]", ops)):
            bound.append(partial(MixedOp.forward, op, weights=weights[place]))
            plan = plan_of(op.signatures, few_calls(weights[place].device))
            alone = weights[place].dtype == torch.bool or not plan.fused
            if not alone and all(norm.training == op.training for norm in op.norms(plan)):
                alike.setdefault((op.training, plan), []).append(place)
        tracked: list[Tensor] = []
        for (training, plan), places in alike.items():
            same = [cast(FusedMixedOp, ops[place]) for place in places]
            tracked += [cast(Tensor, norm.num_batches_tracked) for op in same for norm in op.norms(plan) if training]
            distinct = {id(weights[place]): weights[place] for place in places}
            stack = torch.stack(list(distinct.values())).to(next(same[0].parameters()).dtype)
            rows = [list(distinct).index(id(weights[place])) for place in places]
            stack = plan.choose(stack, rows, dim=0) if len(distinct) > 1 else stack.expand(len(places), -1)
            with torch.autocast(stack.device.type, enabled=False):
                prepared = prepare(plan, same, stack)
            for place, op, row, tensors in zip(places, same, stack.unbind(), prepared, strict=True):
                bound[place] = partial(op._run, plan, row, tensors)
        if tracked:
            torch._foreach_add_(tracked, 1)
        return bound

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        (bound,) = self.bind([self], [weights])
        return bound(x)

    def _run(self, plan: Plan, weights: Tensor, tensors: Sequence[Tensor | None], x: Tensor) -> Tensor:
        if self.partial_channel == 1:
            return self._fused(plan, x, weights, tensors)
        sampled, rest = x.split((self.sampled, x.shape[1] - self.sampled), dim=1)
        bypassed = self.bypass(rest).unflatten(1, (self.partial_channel - 1, -1))
        # Concatenation and channel shuffle in one copy.
        sampled = sampled if plan.few_calls else sampled.contiguous()
        joined = torch.cat((self._fused(plan, sampled, weights, tensors)[:, :, None], bypassed.transpose(1, 2)), dim=2)
        return joined.flatten(1, 2)

    def _fused(self, plan: Plan, x: Tensor, weights: Tensor, tensors: Sequence[Tensor | None]) -> Tensor:
        candidates, norms = list(self.candidates.values()), self.norms(plan)
        total = [weights[index] * candidates[index](x) for index in plan.others]
        of_frames, of_banks = 2 * len(plan.frames), len(tensors) - 4 * bool(plan.normed)
        rectified = F.relu(x) if any(frame.relu for frame in plan.frames) else x
        rows = []
        for frame, kernel, bias in zip(plan.frames, tensors[:of_frames:2], tensors[1:of_frames:2], strict=True):
            padding = frame.dilation * (frame.kernel // 2)
            source = rectified if frame.relu else x
            y = F.conv2d(source, cast(Tensor, kernel), bias, padding=padding, dilation=frame.dilation)
            summed, normed = _parted(y, plan.written * bool(frame.summed))
            total += summed
            rows += normed
        if plan.banks:
            run: Any = partial(separable, plan.banks)
            if not any(bank.normed for bank in plan.banks):
                # The tensors in between are large and cheap to compute: they are computed again in the backward pass.
                run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
            summed, normed = run(x, *tensors[of_frames:of_banks])
            total += summed
            rows += normed
        if rows:
            z = normalise(norms, _joined(rows), cast("Sequence[Tensor]", tensors[of_banks:]), self.training)
            total.append(z.unflatten(1, (len(norms), -1)).sum(1))
        first, *rest = total
        for term in rest:
            first = first + term
        return first


def separable(banks: Sequence[Bank], x: Tensor, *tensors: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Run banks on ``[N, C_in, H, W]`` with their tensors of :func:`prepare`.

    Returns:
        The weighted sum of the candidates without a BatchNorm, ``[N, C_out, H, W]`` or none; for each bank the outputs of those
        with one, ``[N, candidates * C_out, H, W]``.
    """
    read, halves, rows = iter(tensors), cast("list[Tensor]", []), cast("list[Tensor]", [])
    rectified = F.relu(x) if any(bank.first[0].relu for bank in banks) else x
    for bank in banks:
        sizes = [len(run) for run in bank.runs]
        source = rectified if bank.first[0].relu else x
        copies = {size: source.repeat(1, size, 1, 1) if size > 1 else source for size in set(sizes)}
        blocks = [copies[size] for size in sizes]
        for level, stage in enumerate(bank.first):
            if level:
                mixed = pointwise(_joined(blocks), cast(Tensor, next(read)), next(read))
                mixed = F.relu(mixed) if stage.relu else mixed
                blocks = list(mixed.split([size * stage.read for size in sizes], dim=1))
            blocks = [
                depthwise(block, cast(Tensor, next(read)), None, bank.stages[run[0]][level].dilation)
                for run, block in zip(bank.runs, blocks, strict=True)
            ]
        normed: list[Tensor] = []
        for run, block in zip(bank.runs, blocks, strict=True):
            lead, rest = _parted(block, sum(index in bank.summed for index in run) * bank.first[-1].read)
            halves += lead
            normed += rest
        if normed:
            rows.append(pointwise(_joined(normed), cast(Tensor, next(read)), next(read)))
    return [F.conv2d(_joined(halves), cast(Tensor, next(read)), next(read))] if halves else [], rows


def pointwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Pointwise convolutions of blocks of channels, ``[N, blocks * C_in, H, W]`` -> ``[N, blocks * C_out, H, W]``.

    ``kernel`` is ``[blocks, C_out, C_in]``, ``bias`` ``[blocks, C_out]``.
    """
    if few_calls(x.device):
        return F.conv2d(x, kernel.flatten(0, 1)[..., None, None], None if bias is None else bias.flatten(), groups=len(kernel))
    # On a CPU, PyTorch's grouped convolution takes longer than these matrix products.
    blocks = x.unflatten(1, (len(kernel), -1)).flatten(3).flatten(0, 1)
    every = kernel.expand(len(x), -1, -1, -1).flatten(0, 1)
    if bias is None:
        mixed = torch.bmm(every, blocks)
    else:
        mixed = torch.baddbmm(bias.expand(len(x), -1, -1).flatten(0, 1)[..., None], every, blocks)
    return mixed.unflatten(0, (len(x), len(kernel))).flatten(1, 2).unflatten(2, x.shape[2:])


def _parted(x: Tensor, channels: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the first channels and the others, each in a list, or none."""
    if channels in (0, x.shape[1]):
        return ([x], []) if channels else ([], [x])
    lead, rest = x.split((channels, x.shape[1] - channels), dim=1)
    return [lead], [rest]


def _joined(blocks: Sequence[Tensor], dim: int = 1) -> Tensor:
    return torch.cat(list(blocks), dim=dim) if len(blocks) > 1 else blocks[0]


Execution = Annotated[
    Literal["fused", "plain"],
    Field(description="fused computes the candidates together, plain one at a time; results and gradients are the same"),
]

MIXED_OPS: dict[str, type[MixedOp]] = {"fused": FusedMixedOp, "plain": MixedOp}
