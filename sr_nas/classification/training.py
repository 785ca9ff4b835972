"""Task losses of classification. To add one, register a function here."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sr_nas.contracts import Classifier
from sr_nas.errors import UserError
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


# MERGED sr_nas.classification.training: Drop-path over a training: seldom at first, more often from epoch
# to epoch (DARTS, appendix A.2.1).


class DropPathSchedule:
    """Called before every iteration: sets ``network.drop_path`` to ``highest * epoch / epochs``, epochs counted from 0.

    What is left out is addressed by (seed, iteration, process), not consumed: PyTorch's generators are seeded before every
    iteration, so that a resumed training leaves out what a straight one does.

    Args:
        network: what is trained.
        highest: probability that the last epoch is near to, in [0, 1).
        epoch: iterations of an epoch, not rounded.
        total: iterations of the run.
        seed: of what is left out.
        rank: number of this process.

    Raises:
        UserError: a network that leaves nothing out.
    """

    def __init__(self, network: Classifier, highest: float, epoch: Fraction, total: int, seed: int, rank: int = 0) -> None:
        if highest and network.drop_path is None:
            raise UserError(f"train.drop_path: {network.arch} has no operations to leave out; only 0 suits it.")
        self.network, self.highest, self.epoch, self.epochs = network, highest, epoch, math.ceil(total / epoch)
        self.seed, self.rank = seed, rank

    def probability(self, iteration: int) -> float:
        """That of an iteration, counted from 0."""
        return self.highest * (iteration // self.epoch) / self.epochs

    def __call__(self, iteration: int) -> None:
        if self.highest:
            self.network.drop_path = self.probability(iteration)
            address = np.random.SeedSequence([self.seed, iteration, self.rank])
            torch.manual_seed(int(address.generate_state(1, np.uint64)[0]))
