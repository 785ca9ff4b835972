"""Optimizers and learning-rate schedules, by the names of PyTorch and BasicSR. To add one, register a function or class here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sr_nas.errors import UserError
from sr_nas.registry import LR_SCHEDULES, OPTIMIZERS

Parameters = Iterable[nn.Parameter]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _fused(optimizer: Callable[..., Optimizer], parameters: Parameters, **options: Any) -> Optimizer:
    """Build an optimizer with one kernel for all weights where there is one; its state keeps that, so a resumed run does too."""
    weights = list(parameters)
    fused = all(weight.device.type in ("cpu", "cuda") for weight in weights) or None  # None: PyTorch chooses
    return optimizer(weights, fused=fused, **options)


@OPTIMIZERS.register("Adam")
def adam(
    parameters: Parameters, *, lr: Rate = 5e-4, weight_decay: Decay = 0.0, betas: tuple[Beta, Beta] = (0.9, 0.999)
) -> Optimizer:
    """Adam; ``weight_decay`` adds ``weight_decay * parameter`` to the gradient."""
    return _fused(torch.optim.Adam, parameters, lr=lr, weight_decay=weight_decay, betas=betas)


@OPTIMIZERS.register("AdamW")
def adamw(
    parameters: Parameters, *, lr: Rate = 5e-4, weight_decay: Decay = 1e-2, betas: tuple[Beta, Beta] = (0.9, 0.999)
) -> Optimizer:
    """Adam with weight decay apart from the gradient."""
    return _fused(torch.optim.AdamW, parameters, lr=lr, weight_decay=weight_decay, betas=betas)


@OPTIMIZERS.register("SGD")
def sgd(
    parameters: Parameters, *, lr: Rate = 0.025, weight_decay: Decay = 0.0, momentum: Beta = 0.0, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent; with ``nesterov`` a step is the gradient plus the momentum after it (Sutskever, 2013)."""
    if nesterov and not momentum:
        raise UserError("SGD: nesterov needs a momentum, such as momentum: 0.9.")
    return _fused(torch.optim.SGD, parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)


@OPTIMIZERS.register("SOAP")
def soap(
    parameters: Parameters,
    *,
    lr: Rate = 3e-3,
    weight_decay: Decay = 0.0,
    betas: tuple[Beta, Beta] = (0.95, 0.95),
    precondition_frequency: PositiveInt = 10,
) -> Optimizer:
    """SOAP (Vyas et al., ICLR 2025), of pytorch-optimizer: AdamW in the eigenbases of Shampoo's preconditioner.

    The first iteration finds the eigenbases, and moves no weight.

    Args:
        precondition_frequency: iterations from one update of the eigenbases to the next.
    """
    from pytorch_optimizer import SOAP  # here, since importing all its optimizers takes a second

    weights, frequency = list(parameters), precondition_frequency
    device = weights[0].device
    try:
        torch.linalg.qr(torch.linalg.eigh(torch.eye(2, device=device)).eigenvectors)
    except NotImplementedError as error:  # as on MPS for long
        raise UserError(f"SOAP: {device.type} has no eigenvectors in this PyTorch. Take Adam, or num_gpu: 0.") from error
    optimizer = SOAP(weights, lr=lr, weight_decay=weight_decay, betas=betas, precondition_frequency=frequency)
    optimizer.register_step_pre_hook(_check_first_gradient)
    return optimizer


def _check_first_gradient(optimizer: Optimizer, *_: Any) -> None:
    gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
    if not optimizer.state and not all(gradient.isfinite().all() for gradient in gradients):
        raise UserError("SOAP: the first gradient is not finite. Look at the images and at the starting weights.")


@LR_SCHEDULES.register("ConstantLR")
def constant(optimizer: Optimizer, total: int) -> LRScheduler:
    """The same learning rate throughout."""
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)


@LR_SCHEDULES.register("CosineAnnealingLR")
def cosine(optimizer: Optimizer, total: int, *, eta_min: Decay = 0.0) -> LRScheduler:
    """A half cosine from the optimizer's learning rate down to ``eta_min`` over the whole run."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=eta_min)


@LR_SCHEDULES.register("StepLR")
def step(optimizer: Optimizer, total: int, *, step_size: PositiveInt, gamma: Rate = 0.97) -> LRScheduler:
    """Multiply the learning rate by ``gamma`` every ``step_size`` iterations in training, epochs in search."""
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=step_size, gamma=gamma)


@LR_SCHEDULES.register("MultiStepLR")
def multistep(optimizer: Optimizer, total: int, *, milestones: list[PositiveInt], gamma: Rate = 0.5) -> LRScheduler:
    """Multiply the learning rate by ``gamma`` at every milestone (iterations in training, epochs in search)."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=gamma)


@LR_SCHEDULES.register("LinearDecayLR")
def linear_decay(optimizer: Optimizer, total: int, *, period: PositiveInt = 1, tail: PositiveInt = 5) -> LRScheduler:
    """A straight fall, constant within a period, whose last periods fall slower (PC-DARTS, Xu et al. 2020, public code).

    With r of n periods left the rate is multiplied by ``(r - tail) / (n - tail)``, in the tail by ``r / tail / (n - tail)``.

    Args:
        period: iterations in training, epochs in search, of one rate.
        tail: how many periods at the end share the fall that the others have each.
    """
    periods = math.ceil(total / period)
    if periods <= tail:
        raise UserError(f"scheduler LinearDecayLR: its tail has {tail} periods, and the whole run {periods}.")

    def factor(done: int) -> float:
        left = periods - done // period
        return (left - tail if left > tail else left / tail) / (periods - tail)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@LR_SCHEDULES.register("MultiStepRestartLR")
class MultiStepRestartLR(LRScheduler):
    """MultiStepLR that begins anew at every restart, with the optimizer's learning rate times that restart's weight.

    Args:
        milestones: iterations at which the rate is multiplied by ``gamma``; one that is a restart too does not count.
        gamma: factor of a milestone.
        restarts: iterations, ascending; before the first one the weight is 1.
        restart_weights: one for each restart.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        *,
        milestones: tuple[PositiveInt, ...],
        gamma: Rate = 0.1,
        restarts: tuple[NonNegativeInt, ...] = (0,),
        restart_weights: tuple[Rate, ...] = (1.0,),
    ) -> None:
        self.milestones, self.gamma = milestones, gamma
        self.starts = [(0, 1.0), *zip(restarts, restart_weights, strict=True)]
        super().__init__(optimizer)

    @staticmethod
    def check(restarts: tuple[int, ...], restart_weights: tuple[float, ...], **_: Any) -> None:
        if list(restarts) != sorted(set(restarts)):
            raise ValueError(f"restarts must ascend, and {list(restarts)} do not")
        if len(restarts) != len(restart_weights):
            raise ValueError(f"restart_weights: {len(restart_weights)} for {len(restarts)} restarts")

    def get_lr(self) -> list[Any]:
        start, weight = [restart for restart in self.starts if restart[0] <= self.last_epoch][-1]
        passed = sum(start < milestone <= self.last_epoch for milestone in self.milestones)
        return [base * weight * self.gamma**passed for base in self.base_lrs]


@LR_SCHEDULES.register("CosineAnnealingRestartLR")
class CosineAnnealingRestartLR(LRScheduler):
    """Half cosines down to ``eta_min``, one after another: SGDR (Loshchilov & Hutter, ICLR 2017) with BasicSR's weights.

    Iteration t of a period of length T has ``eta_min + weight / 2 (lr - eta_min) (1 + cos(pi t / T))``; t = T still belongs to
    the period that it ends.

    Args:
        periods: lengths in iterations, which must cover the run.
        restart_weights: one for each period.
        eta_min: lowest rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total: int,
        *,
        periods: Annotated[tuple[PositiveInt, ...], Field(min_length=1)],
        restart_weights: tuple[Rate, ...] = (1.0,),
        eta_min: Decay = 0.0,
    ) -> None:
        if sum(periods) < total:
            raise UserError(f"train.scheduler: the periods end after {sum(periods)} iterations, and the run after {total}.")
        self.periods, self.restart_weights, self.eta_min = periods, restart_weights, eta_min
        super().__init__(optimizer)

    @staticmethod
    def check(periods: tuple[int, ...], restart_weights: tuple[float, ...], **_: Any) -> None:
        if len(periods) != len(restart_weights):
            raise ValueError(f"restart_weights: {len(restart_weights)} for {len(periods)} periods")

    def get_lr(self) -> list[Any]:
        ends = list(itertools.accumulate(self.periods))
        current = next((place for place, end in enumerate(ends) if self.last_epoch <= end), len(ends) - 1)
        period, weight = self.periods[current], self.restart_weights[current]
        fall = 1 + math.cos(math.pi * (self.last_epoch - (ends[current] - period)) / period)
        return [self.eta_min + weight * 0.5 * (base - self.eta_min) * fall for base in self.base_lrs]


class WarmUp:
    """Linear warm-up under any schedule: iteration t = 1, 2, ... has the schedule's rate times ``min(1, t / iterations)``."""

    def __init__(self, schedule: LRScheduler, iterations: int) -> None:
        self.schedule, self.iterations, self.done = schedule, iterations, 0
        self._scale()

    def step(self) -> None:
        """Set the rates of the next iteration."""
        # Some schedules compute the next rate from the optimizer's, which must be theirs and not the warm-up's.
        for group, rate in zip(self.schedule.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.schedule.step()
        self.done += 1
        self._scale()

    def _scale(self) -> None:
        self.rates = [group["lr"] for group in self.schedule.optimizer.param_groups]
        if self.done + 1 < self.iterations:
            for group in self.schedule.optimizer.param_groups:
                group["lr"] *= (self.done + 1) / self.iterations

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's state; the optimizer's holds the rates of the next iteration."""
        return {"schedule": self.schedule.state_dict(), "done": self.done, "rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])
        self.done, self.rates = state["done"], state["rates"]


class Together:
    """Schedules of several optimizers as one."""

    def __init__(self, *schedules: LRScheduler) -> None:
        self.schedules = schedules

    def step(self) -> None:
        """Set the next rates of all."""
        for schedule in self.schedules:
            schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): schedule.state_dict() for number, schedule in enumerate(self.schedules)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, schedule in enumerate(self.schedules):
            schedule.load_state_dict(state[str(number)])
