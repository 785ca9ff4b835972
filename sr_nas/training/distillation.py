"""Knowledge distillation: a network also learns what another, the teacher, makes of its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Distillation:
    """The loss between a student's output and its teacher's (Hinton et al. 2015, arXiv 1503.02531, on images).

    Args:
        teacher: of the student's scale and on its device; put in eval mode, its weights are never moved.
        loss: (student's output, teacher's output) -> scalar.
    """

    def __init__(self, teacher: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.teacher, self.loss = teacher.eval().requires_grad_(False), loss

    def __call__(self, low: Tensor, output: Tensor) -> Tensor:
        """Return the loss for a batch of LR images ``[N, 3, H, W]`` and the student's output."""
        with torch.no_grad():
            target = self.teacher(low)
        return self.loss(output, target)
