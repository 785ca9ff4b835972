"""What trainings of classifiers have beyond others: task losses, the auxiliary head's loss and drop-path.

To add a task loss, register a function here.
"""

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

Output = Tensor | tuple[Tensor, Tensor]
"""Logits ``[N, classes]``, or these and the logits of an auxiliary head."""


@CLASSIFICATION_LOSSES.register("CrossEntropyLoss")
def cross_entropy(output: Tensor, target: Tensor, *, label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> Tensor:
    """Mean over the images of ``-log softmax(output)[target]``.

    Args:
        output: logits, ``[N, classes]``.
        target: class numbers, int64, ``[N]``.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    """
    return F.cross_entropy(output, target, label_smoothing=label_smoothing)


def with_auxiliary(loss: Callable[[Tensor, Tensor], Tensor], weight: float) -> Callable[[Output, Tensor], Tensor]:
    """Return the loss ``loss(logits) + weight * loss(auxiliary logits)``; without an auxiliary head, its first term."""

    def combined(output: Output, target: Tensor) -> Tensor:
        if isinstance(output, Tensor):
            return loss(output, target)
        logits, auxiliary = output
        return loss(logits, target) + weight * loss(auxiliary, target)

    return combined


class DropPathSchedule:
    """Raises ``network.drop_path`` from epoch to epoch: ``highest * epoch / epochs``, from 0 (DARTS, appendix A.2.1).

    Called before every iteration. It also seeds PyTorch by (seed, iteration, process), so that a resumed training drops the
    same paths as one that was never stopped.

    Args:
        network: the network that is trained.
        highest: probability that the last epoch comes near to, in [0, 1).
        epoch: iterations of an epoch, not rounded.
        total: iterations of the training.
        seed: of the dropped paths.
        rank: number of this process.

    Raises:
        UserError: ``highest`` is above 0 and the network has no drop-path.
    """

    def __init__(self, network: Classifier, highest: float, epoch: Fraction, total: int, seed: int, rank: int = 0) -> None:
        if highest and network.drop_path is None:
            raise UserError(f"train.drop_path: {network.arch} has no operations to leave out; only 0 suits it.")
        self.network, self.highest, self.epoch, self.epochs = network, highest, epoch, math.ceil(total / epoch)
        self.seed, self.rank = seed, rank

    def probability(self, iteration: int) -> float:
        """Return the drop-path probability of an iteration, counted from 0."""
        return self.highest * (iteration // self.epoch) / self.epochs

    def __call__(self, iteration: int) -> None:
        if self.highest:
            self.network.drop_path = self.probability(iteration)
            address = np.random.SeedSequence([self.seed, iteration, self.rank])
            torch.manual_seed(int(address.generate_state(1, np.uint64)[0]))
