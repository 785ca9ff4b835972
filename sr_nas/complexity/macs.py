"""Multiply-adds (MACs) of a network at any image size, without computing at that size.

What fvcore calls a FLOP is one multiply-add, and the "FLOPs at 1280x720" of the SA-DARTS paper are MACs with a
low-resolution *input* of 1280x720; the "Multi-Adds" of super-resolution papers use a high-resolution *output* of 1280x720.
Both are given here, each under its name.
"""

from __future__ import annotations

import warnings
from fractions import Fraction

import torch
from torch import nn

LR_1280x720 = (720, 1280)
# Products of strides that are provided for: 6 is RFDN's Enhanced Spatial Attention, 48 is a multiple of all that are usual.
_STEPS = (6, 48)
_FAR = 8  # steps
_SMALLEST = 15  # what that attention needs: a 3x3 convolution of stride 2, then a 7x7 pooling, both unpadded

Trace = dict[str, Fraction]


def count_macs(
    network: nn.Module, size: tuple[float | Fraction, float | Fraction] = LR_1280x720, channels: int = 3
) -> dict[str, int]:
    """Count the MACs of a network and of each of its submodules with fvcore, in eval mode.

    Strides and poolings without padding round sizes down, so that a count does not grow evenly with the image. Among the
    heights of one residue class modulo the product of the strides along the network, and widths likewise, it does: there it
    is exactly a + b H + c W + d H W. Fvcore traces at four small sizes that are congruent to ``size`` modulo 6; they
    determine the form, and two more, eight steps higher and eight steps wider, check it. Where that fails, the same is done
    modulo 48. So every product of strides that divides 48 is served, and the common ones cheaply.

    A size that is no whole number (the input for an output of 1280x720 at x3 is 1280/3 wide) has the residue of the nearest
    whole one, and the form is evaluated at the size itself. So a network whose count is linear in pixels gets exactly that
    linear count; for one with strides it is the count of its class continued to that size, rounded.

    Args:
        network: takes ``[1, channels, H, W]``.
        size: (height, width) of the input in pixels. A whole size no larger than the probes is traced itself.
        channels: input channels.

    Returns:
        module name (``""`` for the whole) -> MACs.

    Raises:
        ValueError: the count does not follow this form.
    """
    height, width = (Fraction(side) for side in size)
    whole = (round(height), round(width))
    if whole == (height, width) and max(whole) <= _SMALLEST + _FAR * _STEPS[0]:
        return {name: round(macs) for name, macs in _trace(network, channels, *whole).items()}
    for step in _STEPS:
        form = _Form(network, channels, whole, step)
        if form.holds():
            return {name: round(macs) for name, macs in form.at(height, width).items()}
    raise ValueError(
        f"the multiply-adds of {type(network).__name__} do not follow a + b H + c W + d H W for heights H and widths W that are "
        f"congruent modulo {step}, so that they cannot be told for {whole[0]}x{whole[1]} from smaller images"
    )


class _Form:
    """MACs for the sizes that are congruent to ``size`` modulo ``step``, through traces of four of them."""

    def __init__(self, network: nn.Module, channels: int, size: tuple[int, int], step: int) -> None:
        self.network, self.channels, self.step = network, channels, step
        self.top, self.left = (_SMALLEST + (side - _SMALLEST) % step for side in size)
        self.corners = [
            [_trace(network, channels, height, width) for width in (self.left, self.left + step)]
            for height in (self.top, self.top + step)
        ]

    def at(self, height: Fraction | int, width: Fraction | int) -> Trace:
        """Bilinear in height and width: the form that the four corners determine."""
        down, across = Fraction(height - self.top) / self.step, Fraction(width - self.left) / self.step
        (a, b), (c, d) = self.corners
        return {
            name: (1 - down) * ((1 - across) * a[name] + across * b[name]) + down * ((1 - across) * c[name] + across * d[name])
            for name in a
        }

    def holds(self) -> bool:
        """Compare with a higher and a wider trace, so far away that a stride which does not divide the step shows.

        Over 8 steps a layer behind a stride s grows by 8 step / s lines, to less than one line. The form gives it 8 times
        what it grows by in the first step. These differ for all s <= 22 that do not divide the step.
        """
        higher, wider = (self.top + _FAR * self.step, self.left), (self.top, self.left + _FAR * self.step)
        return all(self.at(*size) == _trace(self.network, self.channels, *size) for size in (higher, wider))


def _trace(network: nn.Module, channels: int, height: int, width: int) -> Trace:
    parameter = next(network.parameters(), torch.zeros(()))
    x = torch.zeros(1, channels, height, width, dtype=parameter.dtype, device=parameter.device)
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch.jit, on which fvcore stands, announces its end at every turn
            from fvcore.nn import FlopCountAnalysis  # it takes a second to import

            analysis = FlopCountAnalysis(network, x)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            return {name: Fraction(macs) for name, macs in analysis.by_module().items()}
    finally:
        for module, mode in training.items():
            module.training = mode
