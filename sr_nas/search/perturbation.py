"""Perturbations of the weights of candidates in the step of the supernet's weights alone (SDARTS, Chen & Hsieh 2020).

Weights that fit a neighbourhood of beta make the loss smooth in alpha; alpha's own step sees beta as it is. To add a
perturbation, register a function here: relaxed weights, their task loss on the batch of the step, and a :class:`Draw`, to the
weights that the step takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from sr_nas.contracts import Weights
from sr_nas.registry import PERTURBATIONS
from sr_nas.search.alpha import Draw

Radius = Annotated[float, Ge(0), Le(1)]
Steps = Annotated[int, Ge(1), Le(1000)]
TaskLoss = Callable[[Weights], Tensor]


def clipped(own: Tensor, moved: Tensor) -> Tensor:
    """Return moved weights of one choice clipped to 0..1 and scaled to the sum of its own; if none is above 0, the largest.

    A weight of 0, of a candidate that the search has dropped, stays.
    """
    inside = moved.clamp(0, 1) * (own != 0)
    largest = F.one_hot(moved.masked_fill(own == 0, -torch.inf).argmax(), len(moved)).to(moved)
    inside = torch.where(inside.sum() > 0, inside, largest)
    return inside * (own.sum() / inside.sum())


@PERTURBATIONS.register("random")
def uniform(weights: Weights, loss: TaskLoss, draw: Draw, *, start: Radius = 0.03, end: Radius = 0.3) -> Weights:
    """Uniform noise in -epsilon..epsilon is added to every weight (SDARTS-RS).

    Args:
        weights: of all choices.
        loss: not used.
        draw: random numbers of the step.
        start: epsilon in the first epoch, from which it grows linearly.
        end: what epsilon grows to; in the last epoch it is one epoch's growth below it.
    """
    epsilon = start + draw.progress * (end - start)
    return {label: clipped(own, own + epsilon * draw.uniform(own)) for label, own in weights.items()}


@PERTURBATIONS.register()
def adversarial(
    weights: Weights, loss: TaskLoss, draw: Draw, *, start: Radius = 0.03, end: Radius = 0.3, steps: Steps = 7
) -> Weights:
    """The weights within epsilon of which the loss is large, by projected steps along the signs of its gradient (SDARTS-ADV).

    It begins at a random place, as ``random`` does, and keeps the weights as they are where their loss is the larger one.

    Args:
        weights: of all choices.
        loss: weights -> scalar, differentiable.
        draw: random numbers of the step.
        start: epsilon in the first epoch, from which it grows linearly.
        end: what epsilon grows to; in the last epoch it is one epoch's growth below it.
        steps: number of steps, each of 2 epsilon / steps.
    """
    epsilon = start + draw.progress * (end - start)
    moved = dict(uniform(weights, loss, draw, start=start, end=end))
    for _ in range(steps):
        at = {label: weight.detach().requires_grad_() for label, weight in moved.items()}
        with torch.enable_grad():
            slopes = torch.autograd.grad(loss(at), list(at.values()), materialize_grads=True)
        for (label, own), slope in zip(weights.items(), slopes, strict=True):
            offset = (moved[label] + 2 * epsilon / steps * slope.sign() - own).clamp(-epsilon, epsilon)
            moved[label] = clipped(own, own + offset)
    with torch.no_grad():
        rises = loss(moved) >= loss(weights)
    return {label: torch.where(rises, moved[label], own) for label, own in weights.items()}
