"""Which convolutions do the work of a mixed operation's candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sr_nas.ops.fused_bank import Bank, shared_sizes
from sr_nas.ops.fused_forms import Form, Stage
from sr_nas.ops.fused_join import Join
from sr_nas.ops.fused_wide import Part, Wide, covers

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
        return ~self.index if len(self.form.stages) > 1 else RECTIFIED if self.stage.relu else INPUT


class FusedPlan:
    """How candidates are computed together.

    Attributes:
        others: places of the candidates of unknown form, which run by themselves.
        prefixed: place and stages in front of the last, of candidates that have some and are not in the join.
        wides: convolutions that hold the kernels of several.
        banks: separable convolutions of an operation that has BatchNorms.
        join: those of an operation that has none, with all that is in front of them; ``None`` where there is none.
        norms: candidate's place and BatchNorm of the blocks that are normalised, in the order of their blocks.
        rectifies: whether anything outside the join reads the input behind a ReLU.
        signature: equal where two operations may be computed together.
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
        """Share out the last stages that read one thing; return the separable ones that no dense convolution takes."""
        apart = []
        wides: dict[tuple[int, int], tuple[list[Last], list[Last]]] = {}
        # Dense before separable, sums before blocks of their own, larger kernels before those that they hold.
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
        # Sums first, and those of one size side by side.
        near = next((sizes[last] for last in lasts if last.form.norm is None), None)
        order = sorted(lasts, key=lambda last: (last.form.norm is not None, sizes[last] != near, sizes[last]))
        leads = sum(last.form.norm is None for last in order)
        stages, weights = tuple(last.stage for last in order), tuple(last.index for last in order)
        self.banks.append(Bank(source, stages, weights, leads, tuple(sizes[last] for last in order)))
        self.norms += [(last.index, last.form.norm) for last in order if last.form.norm is not None]


def _has_room(wide: tuple[list[Last], list[Last]], last: Last) -> bool:
    """Whether a convolution takes another kernel for nothing: into the sum it has, or beside it in the same lanes."""
    summed, alone = wide
    if last.form.norm is None and summed:
        return True
    small = last.stage.kernel**2 * last.stage.out_channels <= SMALL
    if (summed or alone)[0].size == last.size and (small or not last.stage.separable):
        return True
    return (bool(summed) + len(alone) + 1) * last.stage.out_channels <= LANES


def _of_one_eps(forms: Sequence[Form | None]) -> list[Form | None]:
    """The forms without those whose BatchNorm has another eps than the first."""
    found = [None if form is None or form.norm is None else form.norm.eps for form in forms]
    first = next((eps for eps in found if eps is not None), None)
    return [form if eps in (None, first) else None for form, eps in zip(forms, found, strict=True)]
