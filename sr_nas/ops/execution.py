"""How mixed operations run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sr_nas.ops.fused import FusedMixedOp
from sr_nas.ops.mixed import MixedOp

Execution = Annotated[
    Literal["fused", "plain"],
    Field(description="fused computes the candidates together, plain one at a time; results and gradients are the same"),
]

MIXED_OPS: dict[str, type[MixedOp]] = {"fused": FusedMixedOp, "plain": MixedOp}
