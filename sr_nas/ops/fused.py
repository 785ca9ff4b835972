"""The mixed operation with its candidates computed together: equal to :class:`sr_nas.ops.mixed.MixedOp`, and cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.depthwise import depthwise
from sr_nas.ops.fused_forms import Form, Stage, recognise
from sr_nas.ops.fused_kernels import Assembly, Part, Wide, covers
from sr_nas.ops.fused_norm import NormalisedSum, affine_sum, update_statistics
from sr_nas.ops.mixed import Builder, MixedOp

LANES = 16
"""Output channels that a convolution computes at once: up to so many it takes the same time."""

SMALL = 3 * 3 * 16
"""Taps times output channels up to which a depthwise-separable convolution is no faster than more channels of a dense one."""

INPUT, RECTIFIED = 0, 1
"""What candidates read alike: the input, and the input behind a ReLU."""


@dataclass(frozen=True, eq=False)
class Last:
    """The last stage of a candidate; the stages in front of it, if any, run by themselves."""

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
        """What it reads; below 0: what no other candidate reads."""
        return ~self.index if len(self.form.stages) > 1 else int(self.stage.relu)


class FusedMixedOp(MixedOp):
    """:class:`MixedOp` by another order of the same sums; arguments, parameters, their names and results are the same.

    Convolutions without a BatchNorm are linear in their kernel, so that one convolution with the weighted sum of their kernels
    stands for all that read the same; alpha's gradient is a product with that of the kernel. Convolutions of one size with a
    BatchNorm are one convolution to more channels, normalised and summed in one step. Depthwise-separable ones join their
    pointwise halves, or become dense where that is faster. Candidates of another form run by themselves. Hooks on candidates do
    not run.
    """

    def __init__(self, builders: Mapping[str, Builder], in_channels: int, out_channels: int, partial_channel: int = 1) -> None:
        super().__init__(builders, in_channels, out_channels, partial_channel)
        forms = _of_one_eps([recognise(candidate) for candidate in self.candidates.values()])
        self._others = [index for index, form in enumerate(forms) if form is None]
        lasts = [Last(index, form) for index, form in enumerate(forms) if form is not None]
        self._prefixed = [last for last in lasts if last.source < 0]
        self._wides: list[Wide] = []
        self._joined: list[Last] = []
        self._apart: list[Last] = []
        self._norms: list[tuple[int, nn.BatchNorm2d]] = []
        for source in dict.fromkeys(last.source for last in lasts):
            self._plan(source, [last for last in lasts if last.source == source])
        self._assembly = Assembly(self._wides)
        self._norms += [(last.index, last.form.norm) for last in self._apart if last.form.norm is not None]
        self._rectifies = any(form.stages[0].relu for form in forms if form is not None)

    def _plan(self, source: int, lasts: list[Last]) -> None:
        """Share out the last stages that read one thing."""
        wides: dict[tuple[int, int], tuple[list[Last], list[Last]]] = {}
        # Dense before separable, sums before blocks of their own, larger kernels before those that they hold.
        order = sorted(
            lasts, key=lambda last: (last.stage.separable, last.form.norm is not None, -last.stage.kernel, last.stage.dilation)
        )
        for last in order:
            held = next((size for size in wides if covers(*size, last.stage) and self._has_room(wides[size], last)), None)
            if held is None and last.stage.separable:
                (self._joined if last.form.norm is None else self._apart).append(last)
            else:
                wides.setdefault(held or last.size, ([], []))[last.form.norm is not None].append(last)
        for size, (summed, alone) in wides.items():
            parts = [Part(last.stage, 0, last.index) for last in summed]
            parts += [Part(last.stage, row, None) for row, last in enumerate(alone, start=bool(summed))]
            self._wides.append(Wide(source, *size, tuple(parts), bool(summed) + len(alone), bool(summed)))
            self._norms += [(last.index, last.form.norm) for last in alone if last.form.norm is not None]

    @staticmethod
    def _has_room(wide: tuple[list[Last], list[Last]], last: Last) -> bool:
        """Whether a convolution takes another kernel for nothing: into the sum it has, or beside it in the same lanes."""
        summed, alone = wide
        if last.form.norm is None and summed:
            return True
        small = last.stage.kernel**2 * last.stage.out_channels <= SMALL
        if (summed or alone)[0].size == last.size and (small or not last.stage.separable):
            return True
        return (bool(summed) + len(alone) + 1) * last.stage.out_channels <= LANES

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`MixedOp.forward`."""
        if self.partial_channel == 1:
            return self._mix(x, weights)
        mixed = self._mix(x[:, : self.sampled], weights)
        bypassed = self.bypass(x[:, self.sampled :]).unflatten(1, (self.partial_channel - 1, -1))
        # Joined and shuffled in one copy.
        return torch.cat((mixed[:, :, None], bypassed.transpose(1, 2)), dim=2).flatten(1, 2)

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        if any(norm.training != self.training for _, norm in self._norms):
            return super()._mix(x, weights)
        sources = self._sources(x)
        sums, blocks = [], []
        for wide, kernel in zip(self._wides, self._assembly.kernels(weights) if self._wides else (), strict=True):
            z = wide.convolve(sources[wide.source], *kernel)
            if wide.rows == wide.summed:
                sums.append(z)
                continue
            if wide.summed:
                first, z = z.split((z.shape[1] // wide.rows, z.shape[1] // wide.rows * (wide.rows - 1)), dim=1)
                sums.append(first)
            blocks.append(z)
        if self._norms:
            blocks += [_run(last.stage, sources[last.source]) for last in self._apart]
            sums.append(self._normalised(blocks, weights))
        if self._joined:
            sums.append(self._join(sources, weights))
        candidates = list(self.candidates.values())
        sums += [weights[index] * candidates[index](x) for index in self._others]
        total, *rest = sums
        for term in rest:
            total = total + term
        return total

    def _sources(self, x: Tensor) -> dict[int, Tensor]:
        sources = {INPUT: x}
        if self._rectifies:
            sources[RECTIFIED] = F.relu(x)
        for last in self._prefixed:
            first, *between = last.form.stages[:-1]
            h = _run(first, sources[int(first.relu)])
            for stage in between:
                h = _run(stage, F.relu(h, inplace=True) if stage.relu else h)
            # In place: a convolution does not need its result, and the ReLU only its own.
            sources[last.source] = F.relu(h, inplace=True) if last.stage.relu else h
        return sources

    def _normalised(self, blocks: list[Tensor], weights: Tensor) -> Tensor:
        norms = [norm for _, norm in self._norms]
        own = weights[[index for index, _ in self._norms]][:, None]
        scale = own * torch.stack([norm.weight for norm in norms])
        shift = (own * torch.stack([norm.bias for norm in norms])).sum(0)
        eps = norms[0].eps
        if not self.training:
            mean, variance = (torch.stack([getattr(norm, f"running_{name}") for norm in norms]) for name in ("mean", "var"))
            return affine_sum(scale * (variance + eps).rsqrt(), mean, shift, blocks)
        result, mean, variance = NormalisedSum.apply(scale, shift, eps, *blocks)
        update_statistics(norms, mean, variance, result.numel() // result.shape[1])
        return result

    def _join(self, sources: dict[int, Tensor], weights: Tensor) -> Tensor:
        halves, kernels, bias = [], [], None
        for last in self._joined:
            first, pointwise = last.stage.convolutions
            halves.append(depthwise(first, sources[last.source]))
            kernels.append(weights[last.index] * pointwise.weight)
            if pointwise.bias is not None:
                own = weights[last.index] * pointwise.bias
                bias = own if bias is None else bias + own
        return F.conv2d(torch.cat(halves, dim=1), torch.cat(kernels, dim=1), bias)


def _run(stage: Stage, x: Tensor) -> Tensor:
    *first, last = stage.convolutions
    for convolution in first:
        x = depthwise(convolution, x)
    return last(x)


def _of_one_eps(forms: list[Form | None]) -> list[Form | None]:
    """The forms without those whose BatchNorm has another eps than the first."""
    found = [None if form is None or form.norm is None else form.norm.eps for form in forms]
    first = next((eps for eps in found if eps is not None), None)
    return [form if eps in (None, first) else None for form, eps in zip(forms, found, strict=True)]
