"""Costs that a search may penalise: functions of a candidate at its place.

To add one, register a function here; an option file weighs it with ``search.<name>_weight``.
"""

from __future__ import annotations

from fractions import Fraction

from torch import nn

from sr_nas.complexity.macs import LR_1280x720, count_macs
from sr_nas.complexity.summary import count_params
from sr_nas.registry import COSTS


@COSTS.register()
def flops(candidate: nn.Module, channels: int, downscale: int) -> float:
    """fvcore's FLOPs (multiply-adds) for a low-resolution network input of 1280x720 (SA-DARTS, section 6.7.3)."""
    height, width = LR_1280x720
    (macs,) = count_macs(candidate, (Fraction(height, downscale), Fraction(width, downscale)), channels=channels)
    return float(macs[""])


@COSTS.register()
def params(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Trainable values of the candidate."""
    return float(count_params(candidate))
