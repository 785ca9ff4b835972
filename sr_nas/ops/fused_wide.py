"""Convolutions that do the work of several: which kernels are in them, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
