"""From logits alpha to the weights of a mixed operation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from sr_nas.registry import RELAXATIONS


@RELAXATIONS.register()
def softmax(logits: Tensor, *, temperature: Annotated[float, Field(gt=0)] = 1.0) -> Tensor:
    """``softmax(alpha / temperature)`` (DARTS, eq. 1); shape ``[number of candidates]``, sums to 1."""
    return (logits / temperature).softmax(dim=-1)
