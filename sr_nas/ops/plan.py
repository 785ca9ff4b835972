"""Plan of a fused mixed operation: the form of its candidates, read from their modules, and which convolution computes which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

SMALL = 16 * 16
"""Input times output channels of a small convolution."""


class Stage(NamedTuple):
    """An optional ReLU and a dense convolution, or a depthwise and a pointwise one, which keep height and width.

    Attributes:
        relu: whether a ReLU stands in front.
        separable: whether it is a depthwise and a pointwise convolution.
        kernel: side of the kernel.
        dilation: distance of its taps.
        read: input channels.
        written: output channels.
        biases: for each convolution whether it has a bias.
    """

    relu: bool
    separable: bool
    kernel: int
    dilation: int
    read: int
    written: int
    biases: tuple[bool, ...]

    @property
    def is_small(self) -> bool:
        """Whether channels are so few that more of them take no longer than a call of their own."""
        return self.read * self.written <= SMALL


@dataclass(frozen=True, eq=False)
class Form:
    """A candidate: stages, and a BatchNorm behind them or none.

    It holds modules and not their tensors, since ``torch.func.functional_call`` may replace those.
    """

    stages: tuple[Stage, ...]
    convolutions: tuple[tuple[nn.Conv2d, ...], ...]
    norm: nn.BatchNorm2d | None

    @property
    def signature(self) -> Signature:
        """Equal for candidates that are computed alike."""
        return Signature(self.stages, None if self.norm is None else (self.norm.eps, cast(float, self.norm.momentum)))


class Signature(NamedTuple):
    """Stages of a candidate, and eps and momentum of its BatchNorm."""

    stages: tuple[Stage, ...]
    norm: tuple[float, float] | None


def recognise(candidate: nn.Module) -> Form | None:
    """Return the form of a candidate: one dense convolution, or one or more separable ones, with ReLUs in front of them.

    ``None`` for any other structure. A subclass of a layer never matches, since it may compute something else.
    """
    rest, norm = _leaves(candidate), None
    if rest and _tracks(rest[-1]):
        norm = cast(nn.BatchNorm2d, rest.pop())
    stages, convolutions = [], []
    while rest:
        relu = type(rest[0]) is nn.ReLU
        depth = 2 if len(rest) > 1 + relu and _is_depthwise(rest[relu]) else 1
        layers = cast("tuple[nn.Conv2d, ...]", tuple(rest[relu : relu + depth]))
        if not layers or not all(_keeps_size(layer) for layer in layers) or layers[-1].groups != 1:
            return None
        if depth == 2 and layers[1].kernel_size != (1, 1):
            return None
        first, last = layers[0], layers[-1]
        biases = tuple(layer.bias is not None for layer in layers)
        size = first.kernel_size[0], first.dilation[0]
        stages.append(Stage(relu, depth == 2, *size, first.in_channels, last.out_channels, biases))
        convolutions.append(layers)
        rest = rest[relu + depth :]
    if not stages or (len(stages) > 1 and not all(stage.separable for stage in stages)):
        return None
    return Form(tuple(stages), tuple(convolutions), norm)


def _leaves(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [leaf for part in module for leaf in _leaves(part)]
    return [module]


def _keeps_size(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:
        return False
    (kernel, width), (dilation, across) = module.kernel_size, module.dilation
    padded = module.padding == (dilation * (kernel // 2),) * 2 and module.padding_mode == "zeros"
    return (kernel, dilation) == (width, across) and kernel % 2 == 1 and module.stride == (1, 1) and padded


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _tracks(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum is not None


@dataclass(frozen=True)
class Frame:
    """One dense convolution for several candidates: a row of output channels for their weighted sum, one for each BatchNorm.

    Attributes:
        relu: whether it reads the ReLU of the input.
        dilation: distance of the taps.
        kernel: side of the kernel.
        summed: indices of the candidates without a BatchNorm, which are one row.
        normed: indices of those with a BatchNorm.
    """

    relu: bool
    dilation: int
    kernel: int
    summed: tuple[int, ...]
    normed: tuple[int, ...]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """Candidates of every row."""
        return [*([self.summed] if self.summed else []), *((index,) for index in self.normed)]


@dataclass(frozen=True)
class Bank:
    """Separable candidates of equal channels that run together: a depthwise call for each dilation, one grouped pointwise call.

    Attributes:
        stages: of each candidate.
        runs: indices of the candidates, by dilations; in each those without a BatchNorm come first.
        summed: those without a BatchNorm.
        normed: those with one.
    """

    stages: Mapping[int, tuple[Stage, ...]]
    runs: tuple[tuple[int, ...], ...]
    summed: tuple[int, ...]
    normed: tuple[int, ...]

    @property
    def first(self) -> tuple[Stage, ...]:
        """Stages of one of the candidates, for what they have in common."""
        return self.stages[self.runs[0][0]]


class Plan:
    """Assignment of the candidates of an operation to convolutions; the same for operations that can be batched.

    With ``few_calls``, separable convolutions of few channels are multiplied out and kernels padded to the largest: calls decide
    how long an accelerator takes. Else only what costs no multiplication is, since these decide on a CPU.

    Attributes:
        fused: index and signature of the candidates that are computed together.
        others: indices of candidates that run as they are.
        frames: dense convolutions.
        banks: separable convolutions.
        normed: indices of the candidates with a BatchNorm, in the order of their outputs.
        norm: eps and momentum of the BatchNorms.
    """

    def __init__(self, signatures: Sequence[Signature | None], few_calls: bool) -> None:
        self.count, self.few_calls = len(signatures), few_calls
        self.norm = next((one.norm for one in signatures if one is not None and one.norm), (0.0, 0.0))
        self.fused = {index: one for index, one in enumerate(signatures) if one is not None and one.norm in (None, self.norm)}
        self.others = [index for index in range(len(signatures)) if index not in self.fused]
        dense = {index: one.stages[0] for index, one in self.fused.items() if self._is_dense(one)}
        self.frames = self._frames(dense)
        self.banks = self._banks({index: one.stages for index, one in self.fused.items() if index not in dense})
        groups: list[Frame | Bank] = [*self.frames, *self.banks]
        self.normed = [index for group in groups for index in group.normed]
        self.written = next((one.stages[-1].written for one in self.fused.values()), 0)
        self._constants: dict[object, Tensor] = {}

    def _is_dense(self, one: Signature) -> bool:
        """Whether a candidate is dense, or to be multiplied out."""
        stage = one.stages[0]
        if len(one.stages) > 1 or not stage.separable:
            return not stage.separable
        if self.few_calls or one.norm is not None:
            return self.few_calls and stage.is_small
        # Within the kernel of a sum it costs no multiplication.
        sums = (other.stages[0] for other in self.fused.values() if other.norm is None and not other.stages[0].separable)
        same = (other.kernel for other in sums if (other.relu, other.dilation) == (stage.relu, stage.dilation))
        return max(same, default=0) >= stage.kernel

    def _frames(self, dense: Mapping[int, Stage]) -> list[Frame]:
        largest: dict[tuple[bool, int], int] = {}
        for index, stage in dense.items():
            key = stage.relu, stage.dilation if stage.kernel > 1 else 1
            if self.few_calls or stage.is_small or self.fused[index].norm is None:
                largest[key] = max(largest.get(key, 1), stage.kernel)
        frames: dict[tuple[bool, int, int, bool], tuple[list[int], list[int]]] = {}
        for index, stage in dense.items():
            relu, dilation = key = stage.relu, stage.dilation if stage.kernel > 1 else 1
            normed = self.fused[index].norm is not None
            kernel = largest[key] if not normed or (self.few_calls and stage.is_small) else stage.kernel
            alone = normed and not (self.few_calls or stage.is_small)
            frames.setdefault((relu, dilation, kernel, alone), ([], []))[normed].append(index)
        every = [Frame(*key[:3], tuple(summed), tuple(normed)) for key, (summed, normed) in frames.items()]
        # With the candidates with a BatchNorm in their order, most are chosen without a copy.
        return sorted(every, key=lambda frame: frame.normed)

    def _banks(self, separable: Mapping[int, tuple[Stage, ...]]) -> list[Bank]:
        alike: dict[object, list[int]] = {}
        for index, stages in separable.items():
            same = tuple((stage.relu, stage.read, stage.written, stage.biases) for stage in stages)
            alike.setdefault(same, []).append(index)

        def size(index: int) -> list[int]:
            stages = separable[index]
            together = self.few_calls or stages[0].is_small
            return [*([] if together else [stage.kernel for stage in stages]), *(stage.dilation for stage in stages)]

        banks = []
        for members in alike.values():
            members.sort(key=lambda index: (size(index), self.fused[index].norm is not None))
            summed = tuple(index for index in members if self.fused[index].norm is None)
            normed = tuple(index for index in members if self.fused[index].norm is not None)
            runs = tuple(tuple(run) for _, run in groupby(members, size))
            banks.append(Bank({index: separable[index] for index in members}, runs, summed, normed))
        return banks

    def choose(self, weights: Tensor, indices: Sequence[int], dim: int = 1) -> Tensor:
        """Return the columns of some candidates of ``[operations, candidates, ...]``, or with ``dim`` 0 rows."""
        first, count = indices[0], len(indices)
        if list(indices) == list(range(first, first + count)):
            return weights if count == weights.shape[dim] else weights.narrow(dim, first, count)
        return weights.index_select(dim, self._constant(weights, tuple(indices), lambda: torch.tensor(indices)))

    def mixing(self, weights: Tensor, frames: Sequence[Frame], order: Sequence[int]) -> Tensor | None:
        """Return the matrices that make rows of frames from kernels in an order of candidates, ``[operations, rows, kernels]``.

        ``None`` where the rows are these kernels as they are.
        """
        rows = [row for frame in frames for row in frame.rows]
        if not any(frame.summed for frame in frames) and [row[0] for row in rows] == list(order):
            return None

        def build() -> Tensor:
            # Of the constant 1, for candidates with a BatchNorm, and of the weight of every candidate.
            parts = torch.zeros(1 + self.count, len(rows), len(order), dtype=weights.dtype)
            for number, row in enumerate(rows):
                for index in row:
                    parts[1 + index if self.fused[index].norm is None else 0, number, order.index(index)] = 1
            return parts.flatten(1)

        parts = self._constant(weights, (*rows, *order), build)
        return torch.addmm(parts[0], weights, parts[1:]).unflatten(1, (len(rows), -1))

    def _constant(self, like: Tensor, name: object, build: Callable[[], Tensor]) -> Tensor:
        """Return a tensor that is built once for a device, since copying it there waits for the device."""
        key = name, like.device, like.dtype
        if key in self._constants:
            return self._constants[key]
        with torch.inference_mode(False):  # a later pass may need gradients
            made = build().to(like.device)
        if type(like) in (Tensor, nn.Parameter):  # and not a stand-in of a tracer, which must not outlive it
            self._constants[key] = made
        return made


plan_of = cache(Plan)


def few_calls(device: torch.device) -> bool:
    """Whether calls rather than multiplications decide how long a device takes: with networks this small, on accelerators."""
    return device.type != "cpu"
