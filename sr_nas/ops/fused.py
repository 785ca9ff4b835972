"""Fused mixed operation: same results as :class:`sr_nas.ops.mixed.MixedOp`, computed with fewer and larger convolutions.

:class:`FusedPlan` assigns candidates to convolutions; :func:`prepare` computes the kernels of all operations of one kind at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.fused_forms import Form, NormalisedSum, Part, Stage, Wide, affine_sum, recognise, update_statistics
from sr_nas.ops.fused_kernels import Assembly, Bank, Join, covers, shared_sizes, spread
from sr_nas.ops.mixed import Builder, MixedOp

# Up to so many output channels, a convolution takes the same time.
LANES = 16
# Taps times output channels up to which a separable convolution is no faster than further channels of a dense one.
SMALL = 3 * 3 * 16
# Parameters up to which operations compute their kernels together; for larger ones it saves nothing, and the copies take memory.
TOGETHER = 2**20

# Inputs that candidates share: the operation's input, and its ReLU.
INPUT, RECTIFIED = 0, 1


@dataclass(frozen=True, eq=False)
class Last:
    """The last stage of a candidate; stages before it run separately."""

    index: int
    form: Form

    @property
    def stage(self) -> Stage:
        return self.form.stages[-1]

    @property
    def size(self) -> tuple[int, int]:
        return self.stage.kernel, self.stage.dilation

    @property
    def source(self) -> int:
        """Index of its input; negative for the output of the candidate's earlier stages."""
        return ~self.index if len(self.form.stages) > 1 else RECTIFIED if self.stage.relu else INPUT


class FusedPlan:
    """Assignment of the candidates of an operation to convolutions.

    Attributes:
        others: indices of candidates of unknown form, which run as they are.
        prefixed: (index, form) of candidates with several stages that are not in the join.
        wides: dense convolutions, each for several candidates.
        banks: separable convolutions of an operation with BatchNorms.
        join: separable candidates of an operation without BatchNorms; ``None`` where there are none.
        norms: (candidate index, BatchNorm) of the normalised blocks, in block order.
        rectifies: whether anything outside the join reads the ReLU of the input.
        signature: equal for operations that can be batched.
    """

    def __init__(self, forms: Sequence[Form | None]) -> None:
        forms = _of_one_eps(forms)
        self.others = [index for index, form in enumerate(forms) if form is None]
        lasts = [Last(index, form) for index, form in enumerate(forms) if form is not None]
        self.wides: list[Wide] = []
        self.banks: list[Bank] = []
        self.norms: list[tuple[int, nn.BatchNorm2d]] = []
        normalises = any(last.form.norm is not None for last in lasts)
        apart = []
        for source in dict.fromkeys(last.source for last in lasts):
            apart += self._share_out(source, [last for last in lasts if last.source == source])
        if normalises:
            for source in dict.fromkeys(last.source for last in apart):
                self._put_in_bank(source, [last for last in apart if last.source == source])
            apart = []
        self.join = Join([last.index for last in apart], [last.form for last in apart]) if apart else None
        self.prefixed = [(last.index, last.form) for last in lasts if last.source < 0 and last not in apart]
        read = {wide.source for wide in self.wides} | {bank.source for bank in self.banks}
        self.rectifies = RECTIFIED in read or any(form.stages[0].relu for _, form in self.prefixed)
        norms = [(index, norm.eps, norm.num_features) for index, norm in self.norms]
        self.signature: tuple[Any, ...] = (
            *(wide.signature for wide in self.wides),
            *(bank.signature for bank in self.banks),
            *norms,
        )

    def _share_out(self, source: int, lasts: Sequence[Last]) -> list[Last]:
        """Assign the last stages of one input to dense convolutions; return the separable ones that fit in none."""
        apart = []
        wides: dict[tuple[int, int], tuple[list[Last], list[Last]]] = {}
        # Dense before separable, summed before normalised, larger kernels before those that fit in them.
        order = sorted(
            lasts, key=lambda last: (last.stage.separable, last.form.norm is not None, -last.stage.kernel, last.stage.dilation)
        )
        for last in order:
            held = next((size for size in wides if covers(*size, last.stage) and _has_room(wides[size], last)), None)
            if held is None and last.stage.separable:
                apart.append(last)
            else:
                wides.setdefault(held or last.size, ([], []))[last.form.norm is not None].append(last)
        for size, (summed, alone) in wides.items():
            parts = [Part(last.stage, 0, last.index) for last in summed]
            parts += [Part(last.stage, row, None) for row, last in enumerate(alone, start=bool(summed))]
            self.wides.append(Wide(source, *size, tuple(parts), bool(summed) + len(alone), bool(summed)))
            self.norms += [(last.index, last.form.norm) for last in alone if last.form.norm is not None]
        return apart

    def _put_in_bank(self, source: int, lasts: Sequence[Last]) -> None:
        sizes = dict(zip(lasts, shared_sizes([last.stage for last in lasts]), strict=True))
        # Summed stages first, and equal sizes next to each other.
        near = next((sizes[last] for last in lasts if last.form.norm is None), None)
        order = sorted(lasts, key=lambda last: (last.form.norm is not None, sizes[last] != near, sizes[last]))
        leads = sum(last.form.norm is None for last in order)
        stages, weights = tuple(last.stage for last in order), tuple(last.index for last in order)
        self.banks.append(Bank(source, stages, weights, leads, tuple(sizes[last] for last in order)))
        self.norms += [(last.index, last.form.norm) for last in order if last.form.norm is not None]


def _has_room(wide: tuple[list[Last], list[Last]], last: Last) -> bool:
    """Whether a convolution can take another kernel at no cost: in its existing sum, or as further channels within the lanes."""
    summed, alone = wide
    if last.form.norm is None and summed:
        return True
    small = last.stage.kernel**2 * last.stage.out_channels <= SMALL
    if (summed or alone)[0].size == last.size and (small or not last.stage.separable):
        return True
    return (bool(summed) + len(alone) + 1) * last.stage.out_channels <= LANES


def _of_one_eps(forms: Sequence[Form | None]) -> list[Form | None]:
    """Replace forms whose BatchNorm has another eps than the first by ``None``."""
    found = [None if form is None or form.norm is None else form.norm.eps for form in forms]
    first = next((eps for eps in found if eps is not None), None)
    return [form if eps in (None, first) else None for form, eps in zip(forms, found, strict=True)]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Tensors of one operation for one pass.

    Attributes:
        weights: of the candidates.
        shift: ``[C]``, sum of all biases; ``None`` for none.
        scale: ``[B, C]``, factor of every normalised block; in evaluation divided by the running standard deviation.
        offset: ``[B, C]``. Training: convolution biases left out of the blocks; BatchNorm cancels them in the output, so they
            are only added to the running mean. Evaluation: running mean minus these biases.
        kernels: of the wide convolutions.
        banks: (pointwise kernels, depthwise kernels) of every bank.
    """

    weights: Tensor
    shift: Tensor | None
    scale: Tensor | None
    offset: Tensor | None
    kernels: tuple[Tensor, ...]
    banks: tuple[tuple[Tensor, tuple[Tensor, ...]], ...]


def prepare(plans: Sequence[FusedPlan], weights: Tensor, training: bool) -> list[Prepared]:
    """Compute the tensors of several operations in one batch.

    Args:
        plans: one per operation, of equal signature.
        weights: ``[operations, candidates]``.
        training: whether BatchNorms use batch statistics.
    """
    first = plans[0]
    kernels, biases = Assembly([plan.wides for plan in plans])(weights) if first.wides else ([], [])
    shift = scale = offset = None
    for wide, bias in zip(first.wides, biases, strict=True):
        if wide.summed and bias is not None:
            own = bias[:, : wide.parts[0].stage.out_channels]
            shift = own if shift is None else shift + own
    banks = [bank_weights([plan.banks[number] for plan in plans], weights) for number in range(len(first.banks))]
    if first.norms:
        factor = weights[:, [index for index, _ in first.norms], None]
        scale, beta = factor * _stacked(plans, "weight"), (factor * _stacked(plans, "bias")).sum(1)
        shift = beta if shift is None else shift + beta
        channels, lacking = scale.shape[2], []
        for wide, bias in zip(first.wides, biases, strict=True):
            own = weights.new_zeros(len(plans), wide.shape[0]) if bias is None else bias
            lacking.append(own.unflatten(1, (-1, channels))[:, int(wide.summed) :])
        for bank, (_, _, bias) in zip(first.banks, banks, strict=True):
            shift = shift + bias[:, : bank.leads].sum(1)
            lacking.append(bias[:, bank.leads :])
        offset = torch.cat(lacking, dim=1)
        if not training:
            scale = scale * (_stacked(plans, "running_var") + first.norms[0][1].eps).rsqrt()
            offset = _stacked(plans, "running_mean") - offset
    none: list[Tensor | None] = [None] * len(plans)
    shifts, scales, offsets = (none if tensor is None else tensor.unbind() for tensor in (shift, scale, offset))
    wide_kernels = [kernel.unbind() for kernel in kernels]
    own_banks = [(pointwise.unbind(), [kernel.unbind() for kernel in depthwise]) for pointwise, depthwise, _ in banks]
    return [
        Prepared(
            own,
            shifts[place],
            scales[place],
            offsets[place],
            tuple(kernel[place] for kernel in wide_kernels),
            tuple((pointwise[place], tuple(kernel[place] for kernel in depthwise)) for pointwise, depthwise in own_banks),
        )
        for place, own in enumerate(weights.unbind())
    ]


def bank_weights(banks: Sequence[Bank], weights: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Kernels of banks of equal signature; those of summed stages are multiplied by their weights.

    Returns:
        Pointwise kernels ``[operations, stages, C_out, C_in]``; depthwise kernels per run, ``[operations, stages of the run *
        C_in, 1, k, k]``; biases ``[operations, stages, C_out]``.
    """
    first = banks[0]
    stages = list(zip(*(bank.stages for bank in banks), strict=True))
    tensors = [[[convolution.weight for convolution in stage.convolutions] for stage in same] for same in stages]
    pointwise = (
        torch.stack([own[-1] for same in tensors for own in same]).unflatten(0, (len(stages), -1)).transpose(0, 1)[..., 0, 0]
    )
    factor = torch.cat((weights[:, first.weights[: first.leads]], weights.new_ones(len(banks), len(stages) - first.leads)), dim=1)
    pointwise = pointwise * factor[..., None, None]
    depthwise, start = [], 0
    for size, count in first.runs:
        run = range(start, start + count)
        kernels = [spread(torch.stack([own[0] for own in tensors[place]]), first.stages[place], *size) for place in run]
        depthwise.append(torch.cat(kernels, dim=1))
        start += count
    biases = [_bias(same, pointwise[:, place], factor[:, place, None]) for place, same in enumerate(stages)]
    return pointwise, depthwise, torch.stack(biases, dim=1)


def _bias(stages: Sequence[Stage], pointwise: Tensor, factor: Tensor) -> Tensor:
    """Total bias of a stage in all operations: ``[operations, C_out]``."""
    total = pointwise.new_zeros(pointwise.shape[:2])
    firsts, lasts = ([stage.convolutions[half].bias for stage in stages] for half in (0, -1))
    if firsts[0] is not None:
        total = total + (pointwise * torch.stack(cast("list[Tensor]", firsts))[:, None]).sum(2)
    if lasts[0] is not None:
        total = total + factor * torch.stack(cast("list[Tensor]", lasts))
    return total


def _stacked(plans: Sequence[FusedPlan], name: str) -> Tensor:
    """One attribute of all BatchNorms, ``[operations, B, C]``."""
    found = [getattr(norm, name) for plan in plans for _, norm in plan.norms]
    return torch.stack(found).unflatten(0, (len(plans), -1))


class FusedMixedOp(MixedOp):
    """:class:`MixedOp` with the sums reordered; arguments, parameters, their names and results are the same.

    A convolution is linear in its kernel, so candidates without BatchNorm that read the same input are one convolution with the
    weighted sum of their kernels. Candidates of one kernel size with BatchNorm are one convolution with more channels, normalised
    and summed in one step. Separable candidates share one pointwise product, or become dense where that is faster. Other
    candidates run as they are. Hooks on candidates do not run.
    """

    def __init__(self, builders: Mapping[str, Builder], in_channels: int, out_channels: int, partial_channel: int = 1) -> None:
        super().__init__(builders, in_channels, out_channels, partial_channel)
        self._plan = FusedPlan([recognise(candidate) for candidate in self.candidates.values()])

    @classmethod
    def bind(cls, ops: Sequence[MixedOp], weights: Sequence[Tensor]) -> list[Callable[[Tensor], Tensor]]:
        """See :meth:`MixedOp.bind`; operations of equal signature compute their kernels together."""
        alike: dict[object, list[int]] = {}
        bound: list[Callable[[Tensor], Tensor]] = []
        for place, op in enumerate(cast("Sequence[FusedMixedOp]", ops)):
            bound.append(partial(MixedOp.forward, op, weights=weights[place]))
            if weights[place].dtype != torch.bool and all(norm.training == op.training for _, norm in op._plan.norms):
                alike.setdefault((op.training, op._plan.signature), []).append(place)
        for everyone in alike.values():
            count = max(1, TOGETHER // sum(parameter.numel() for parameter in ops[everyone[0]].candidates.parameters()))
            for start in range(0, len(everyone), count):
                places = everyone[start : start + count]
                same = [cast(FusedMixedOp, ops[place]) for place in places]
                prepared = prepare([op._plan for op in same], torch.stack([weights[place] for place in places]), same[0].training)
                for place, op, own in zip(places, same, prepared, strict=True):
                    bound[place] = partial(op._run, own)
        return bound

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        (bound,) = self.bind([self], [weights])
        return bound(x)

    def _run(self, prepared: Prepared, x: Tensor) -> Tensor:
        if self.partial_channel == 1:
            return self._fused(x, prepared)
        sampled, rest = x.split((self.sampled, x.shape[1] - self.sampled), dim=1)
        bypassed = self.bypass(rest).unflatten(1, (self.partial_channel - 1, -1))
        # Concatenation and channel shuffle in one copy.
        return torch.cat((self._fused(sampled, prepared)[:, :, None], bypassed.transpose(1, 2)), dim=2).flatten(1, 2)

    def _fused(self, x: Tensor, prepared: Prepared) -> Tensor:
        plan, weights = self._plan, prepared.weights
        sources = self._sources(x)
        parts = [
            (wide.convolve(sources[wide.source], kernel), int(wide.summed))
            for wide, kernel in zip(plan.wides, prepared.kernels, strict=True)
        ]
        parts += [(bank(sources[bank.source], *own), bank.leads) for bank, own in zip(plan.banks, prepared.banks, strict=True)]
        if plan.join is not None:
            parts.append((plan.join(x, weights), 1))
        candidates = list(self.candidates.values())
        parts += [(weights[index] * candidates[index](x), 1) for index in plan.others]
        if not plan.norms:
            first, *rest = (part for part, _ in parts)
            for part in rest:
                first = first + part
            return first if prepared.shift is None else first + prepared.shift[:, None, None]
        assert prepared.scale is not None and prepared.shift is not None and prepared.offset is not None
        if not self.training:
            return affine_sum(prepared.scale, prepared.offset, prepared.shift, parts)
        tensors, leads = zip(*parts, strict=True)
        norms = [norm for _, norm in plan.norms]
        result, mean, variance = NormalisedSum.apply(prepared.scale, prepared.shift, norms[0].eps, leads, *tensors)
        update_statistics(norms, mean + prepared.offset, variance, result.numel() // result.shape[1])
        return cast(Tensor, result)

    def _sources(self, x: Tensor) -> dict[int, Tensor]:
        sources = {INPUT: x}
        if self._plan.rectifies:
            sources[RECTIFIED] = F.relu(x)
        for index, form in self._plan.prefixed:
            h = sources[RECTIFIED if form.stages[0].relu else INPUT]
            for stage, following in pairwise(form.stages):
                h = stage.run(h, stage.tensors())
                h = F.relu(h) if following.relu else h
            sources[~index] = h
        return sources


Execution = Annotated[
    Literal["fused", "plain"],
    Field(description="fused computes the candidates together, plain one at a time; results and gradients are the same"),
]

MIXED_OPS: dict[str, type[MixedOp]] = {"fused": FusedMixedOp, "plain": MixedOp}
