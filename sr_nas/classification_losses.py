"""Task losses of classification. To add one, register a function here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sr_nas.registry import CLASSIFICATION_LOSSES


@CLASSIFICATION_LOSSES.register("CrossEntropyLoss")
def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> Tensor:
    """Mean over the images of ``-log softmax(output)[target]``.

    Args:
        output: logits, ``[N, classes]``.
        target: class numbers, int64, ``[N]``.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    """
    return F.cross_entropy(output, target, label_smoothing=label_smoothing)


def with_auxiliary(
    loss: Callable[[Tensor, Tensor], Tensor], weight: float
) -> Callable[[Tensor | tuple[Tensor, Tensor], Tensor], Tensor]:
    """Return ``loss(logits) + weight * loss(auxiliary logits)`` of what a classifier returns, which may be the logits alone."""

    def combined(output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        if isinstance(output, Tensor):
            return loss(output, target)
        logits, auxiliary = output
        return loss(logits, target) + weight * loss(auxiliary, target)

    return combined
