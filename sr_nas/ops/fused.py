"""The mixed operation with its candidates computed together: equal to :class:`sr_nas.ops.mixed.MixedOp`, and cheaper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.ops.fused_forms import recognise
from sr_nas.ops.fused_norm import NormalisedSum, affine_sum, update_statistics
from sr_nas.ops.fused_plan import INPUT, RECTIFIED, FusedPlan
from sr_nas.ops.fused_weights import Prepared, prepare
from sr_nas.ops.mixed import Builder, MixedOp

TOGETHER = 2**20
"""Parameters up to which operations compute their kernels together: more are slow enough, and their copies take memory."""


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
        self._plan = FusedPlan([recognise(candidate) for candidate in self.candidates.values()])

    @classmethod
    def bind(cls, ops: Sequence[MixedOp], weights: Sequence[Tensor]) -> list[Callable[[Tensor], Tensor]]:
        """See :meth:`MixedOp.bind`. Operations that are alike compute their kernels together."""
        alike: dict[object, list[int]] = {}
        bound: list[Callable[[Tensor], Tensor]] = []
        for place, op in enumerate(cast("Sequence[FusedMixedOp]", ops)):
            bound.append(partial(MixedOp.forward, op, weights=weights[place]))
            if all(norm.training == op.training for _, norm in op._plan.norms):
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
        """See :meth:`MixedOp.forward`."""
        (bound,) = self.bind([self], [weights])
        return bound(x)

    def _run(self, prepared: Prepared, x: Tensor) -> Tensor:
        if self.partial_channel == 1:
            return self._fused(x, prepared)
        sampled, rest = x.split((self.sampled, x.shape[1] - self.sampled), dim=1)
        bypassed = self.bypass(rest).unflatten(1, (self.partial_channel - 1, -1))
        # Joined and shuffled in one copy.
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
