"""How the strength lambda_e of a regulariser depends on the epoch e = 1 ... E (SA-DARTS, algorithm 1)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sr_nas.registry import SCHEDULES

WarmUp = Annotated[int, Field(ge=0, description="epochs during which the strength is 0")]


@SCHEDULES.register()
def constant(epoch: int, *, value: float = 1.0, warmup_epochs: WarmUp = 0) -> float:
    """``value`` in every epoch after the warm-up."""
    return value if epoch > warmup_epochs else 0.0


@SCHEDULES.register()
def linear(epoch: int, *, slope: float = 0.2, warmup_epochs: WarmUp = 0) -> float:
    """``slope * (epoch - warmup_epochs)``: with slope 1/5 the paper's default, with 1/2 that of its NAS-Bench-201 ablation."""
    return slope * max(0, epoch - warmup_epochs)
