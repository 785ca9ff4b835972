"""Optimizers and learning-rate schedules by PyTorch's names, as option files know them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sr_nas.registry import LR_SCHEDULES, OPTIMIZERS

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


@OPTIMIZERS.register("Adam")
def adam(
    parameters: Iterable[nn.Parameter], *, lr: Rate = 5e-4, weight_decay: Decay = 0.0, betas: tuple[Beta, Beta] = (0.9, 0.999)
) -> Optimizer:
    """Adam; ``weight_decay`` adds ``weight_decay * parameter`` to the gradient."""
    return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, betas=betas)


@OPTIMIZERS.register("AdamW")
def adamw(
    parameters: Iterable[nn.Parameter], *, lr: Rate = 5e-4, weight_decay: Decay = 1e-2, betas: tuple[Beta, Beta] = (0.9, 0.999)
) -> Optimizer:
    """Adam with weight decay apart from the gradient."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas)


@OPTIMIZERS.register("SGD")
def sgd(parameters: Iterable[nn.Parameter], *, lr: Rate = 0.025, weight_decay: Decay = 0.0, momentum: Beta = 0.0) -> Optimizer:
    """Stochastic gradient descent."""
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum)


@LR_SCHEDULES.register("ConstantLR")
def constant(optimizer: Optimizer, total: int) -> LRScheduler:
    """The same learning rate throughout."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


@LR_SCHEDULES.register("CosineAnnealingLR")
def cosine(optimizer: Optimizer, total: int, *, eta_min: Decay = 0.0) -> LRScheduler:
    """A half cosine from the optimizer's learning rate down to ``eta_min`` over the whole run."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=eta_min)


@LR_SCHEDULES.register("MultiStepLR")
def multistep(optimizer: Optimizer, total: int, *, milestones: list[PositiveInt], gamma: Rate = 0.5) -> LRScheduler:
    """Multiply the learning rate by ``gamma`` at every milestone (iterations in training, epochs in search)."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=gamma)
