"""Multiply-adds (MACs) of a network at any image size, without computing at that size.

What fvcore calls a FLOP is one multiply-add, and the "FLOPs at 1280x720" of the SA-DARTS paper are MACs with a
low-resolution *input* of 1280x720; the "Multi-Adds" of super-resolution papers use a high-resolution *output* of 1280x720.
Both are given here, each under its name.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn

LR_1280x720 = (720, 1280)
_PROBES = ((16, 16), (16, 32), (40, 24))


@dataclass(frozen=True)
class Macs:
    """MACs of one module as a function of the input's pixels: ``constant + per_pixel * height * width``.

    The constant comes from what follows a global pooling.
    """

    constant: float
    per_pixel: float

    def at(self, pixels: float) -> int:
        """MACs for an input of that many pixels."""
        return round(self.constant + self.per_pixel * pixels)


def count_macs(network: nn.Module, channels: int = 3) -> dict[str, Macs]:
    """Count the MACs of a network and of each of its submodules with fvcore, in eval mode.

    fvcore traces the network at small sizes; its count is linear in the number of pixels for layers that keep height and
    width (or change them by a fixed factor), and constant behind a global pooling. Two sizes determine both, a third
    checks that the network is of this kind.

    Args:
        network: takes ``[1, channels, H, W]``.
        channels: input channels.

    Returns:
        module name (``""`` for the whole) -> MACs.

    Raises:
        ValueError: the count is not linear in the number of pixels.
    """
    (h0, w0), (h1, w1), (h2, w2) = _PROBES
    small, large, check = (_trace(network, channels, height, width) for height, width in _PROBES)
    found = {}
    for name, first in small.items():
        per_pixel = (large[name] - first) / (h1 * w1 - h0 * w0)
        found[name] = Macs(first - per_pixel * h0 * w0, per_pixel)
    if found[""].at(h2 * w2) != check[""]:
        raise ValueError(f"the multiply-adds of {type(network).__name__} are not linear in the number of pixels")
    return found


def _trace(network: nn.Module, channels: int, height: int, width: int) -> dict[str, float]:
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
            return dict(analysis.by_module())
    finally:
        for module, mode in training.items():
            module.training = mode
