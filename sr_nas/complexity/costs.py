"""Costs that a search may penalise: functions of a candidate at its place.

To add one, register a function here; an option file weighs it with ``search.<name>_weight``. Option files are
checked against the names here, so that this file imports no PyTorch before it is measured.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from sr_nas.registry import COSTS

if TYPE_CHECKING:
    from torch import nn


@COSTS.register()
def flops(candidate: nn.Module, channels: int, downscale: int) -> float:
    """fvcore's FLOPs (multiply-adds) for a low-resolution network input of 1280x720 (SA-DARTS, section 6.7.3)."""
    from sr_nas.complexity.macs import LR_1280x720, count_macs

    height, width = LR_1280x720
    (macs,) = count_macs(candidate, (Fraction(height, downscale), Fraction(width, downscale)), channels=channels)
    return float(macs[""])


@COSTS.register()
def params(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Trainable values of the candidate."""
    from sr_nas.complexity.summary import count_params

    return float(count_params(candidate))
