"""Drop-path over a training: seldom at first, more often from epoch to epoch (DARTS, appendix A.2.1)."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from sr_nas.contracts import Classifier
from sr_nas.errors import UserError


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
