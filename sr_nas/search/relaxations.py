"""From logits alpha to the weights of a mixed operation.

To add one, register a function here and name it under ``search.relaxation.type`` in an option file. One that samples has a
second parameter ``draw``: what a pass draws, or ``None`` where no pass is made: for records and genotypes.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from sr_nas.registry import RELAXATIONS
from sr_nas.search.draw import Draw

Temperature = Annotated[float, Field(gt=0)]


@RELAXATIONS.register()
def softmax(logits: Tensor, *, temperature: Temperature = 1.0) -> Tensor:
    """``softmax(alpha / temperature)`` (DARTS, eq. 1); shape ``[number of candidates]``, sums to 1."""
    return (logits / temperature).softmax(dim=-1)


@RELAXATIONS.register()
def gumbel_softmax(
    logits: Tensor, draw: Draw | None = None, *, temperature: Temperature = 1.0, final_temperature: Temperature = 0.03
) -> Tensor:
    """``softmax((alpha + G) / T)`` with Gumbel noise G, drawn anew in every pass (SNAS, Xie et al. 2019, eq. 5).

    The largest of ``alpha + G`` is that of candidate i with probability ``softmax(alpha)_i``, and a low T makes the sample
    nearly one-hot. T falls linearly over the epochs, as in the authors' public code, from ``temperature`` in the first to
    one epoch's fall above ``final_temperature`` in the last. Without a draw it is ``softmax(alpha)``: the distribution itself.
    """
    if draw is None:
        return logits.softmax(dim=-1)
    now = final_temperature + (1 - draw.progress) * (temperature - final_temperature)
    return ((logits + draw.gumbel(logits)) / now).softmax(dim=-1)
