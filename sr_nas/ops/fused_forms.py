"""What a candidate is made of, as far as a fused execution can know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.depthwise import depthwise


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
