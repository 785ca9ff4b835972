"""Task losses of super-resolution, by BasicSR's names. To add one, register a function here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sr_nas.registry import LOSSES

LossWeight = Annotated[float, Field(gt=0)]


@LOSSES.register("L1Loss")
def l1(output: Tensor, target: Tensor, *, loss_weight: LossWeight = 1.0) -> Tensor:
    """``loss_weight`` times the mean absolute difference of two equally shaped tensors."""
    return loss_weight * F.l1_loss(output, target)


@LOSSES.register("MSELoss")
def mse(output: Tensor, target: Tensor, *, loss_weight: LossWeight = 1.0) -> Tensor:
    """``loss_weight`` times the mean squared difference of two equally shaped tensors."""
    return loss_weight * F.mse_loss(output, target)
