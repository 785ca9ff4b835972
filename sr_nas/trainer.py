"""The training loop of a plain network: iterations, moving average of the weights, distillation, detection of divergence."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sr_nas.contracts import Network, Stream
from sr_nas.errors import UserError
from sr_nas.optim import WarmUp
from sr_nas.runs.device import Precision, autocast
from sr_nas.runs.distributed import gradient_sync, largest, mean, replicate
from sr_nas.runs.run_dir import count_of, first_non_finite

Losses = dict[str, float]
"""``loss``, the task loss; with a teacher also ``distill``. The weights minimise their sum."""


class Diverged(UserError):
    """The loss or the weights are not finite, or the loss is far above what it was."""


class DivergenceWatch:
    """Compares the mean of the last ``window`` losses with the lowest such mean of the run.

    The loss has diverged where the mean is above ``factor`` times the lowest one; ``None`` for never.
    """

    RECENT = 10

    # 100 losses: so many that a hard batch or a restart of the learning rate is no divergence.
    def __init__(self, factor: float | None, window: int = 100) -> None:
        self.factor, self.window = factor, window
        self.losses: deque[float] = deque(maxlen=window)
        self.lowest: float | None = None

    def note(self, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.window:
            mean = self._mean(self.window)
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)

    @property
    def diverged(self) -> bool:
        """Whether the mean of the window is far above the lowest one."""
        return self.far_above(self._mean(self.window))

    @property
    def suspicious(self) -> bool:
        """Whether the mean of the last few losses is: a divergence may have begun, and no good state should be replaced."""
        return self.far_above(self._mean(self.RECENT))

    def describe(self) -> str:
        mean = self._mean(self.window)
        return f"the mean loss of the last {self.window} iterations is {mean:.4g}, and was {self.lowest:.4g} at its lowest"

    def far_above(self, loss: float) -> bool:
        """Whether a loss is above ``factor`` times the lowest mean; false before there is such a mean."""
        # Written with "not", so that NaN is far above.
        return bool(self.factor and self.lowest) and not loss <= self.factor * self.lowest  # type: ignore[operator]

    def _mean(self, count: int) -> float:
        last = list(self.losses)[-count:]
        return sum(last) / max(len(last), 1)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.lowest = deque(state["losses"], maxlen=self.window), state["lowest"]


class Distillation:
    """Loss between a student's output and that of a frozen teacher of the same scale (Hinton et al. 2015, on images)."""

    def __init__(self, teacher: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.teacher, self.loss = teacher.eval().requires_grad_(False), loss

    def __call__(self, low: Tensor, output: Tensor) -> Tensor:
        """Return the loss for a batch of LR images ``[N, 3, H, W]`` and the student's output."""
        with torch.no_grad():
            target = self.teacher(low)
        return self.loss(output, target)


class Trainer:
    """One training; its :meth:`state_dict` is all that is needed to resume it.

    Several processes may train together (:mod:`sr_nas.runs.distributed`), each on its slice of every batch: gradients and
    losses are averaged, so that all have the weights of one process with the whole batches. BatchNorm alone sees slices.

    Args:
        network: on its device.
        loss: (output, target) -> scalar; the output is whatever the network returns.
        stream: batches of (images, target), such as (LR, HR).
        scheduler: stepped once per iteration.
        total: iterations of the whole training.
        compiled: run the network by ``torch.compile``.
        accumulate: batches of an iteration, which descends on the mean of their losses.
        ema_decay: decay of the moving average of the weights (it shares the network's buffers); 0 for no average.
        grad_clip_norm: largest norm of the gradient; ``None`` for no limit.
        precision: of forward passes. In fp16 the loss is scaled, and an iteration whose gradient is not finite moves no weights.
        before_step: called before every iteration with the number of those that are done.
    """

    def __init__(
        self,
        network: Network,
        loss: Callable[[Any, Tensor], Tensor],
        stream: Stream,
        optimizer: Optimizer,
        scheduler: WarmUp,
        total: int,
        *,
        compiled: bool = False,
        distillation: Distillation | None = None,
        accumulate: int = 1,
        ema_decay: float = 0.999,
        grad_clip_norm: float | None = None,
        precision: Precision = "fp32",
        watch: DivergenceWatch | None = None,
        before_step: Callable[[int], None] = lambda iteration: None,
    ) -> None:
        self.network, self.loss, self.stream = network.train(), loss, stream
        self.optimizer, self.scheduler, self.total = optimizer, scheduler, total
        # Before anything copies the weights, since this gives those of the first process to all.
        self._replica = replicate(network)
        self.forward = torch.compile(self._replica) if compiled else self._replica
        self.distillation, self.accumulate, self.grad_clip_norm = distillation, accumulate, grad_clip_norm
        self.precision, self.before_step = precision, before_step
        self.watch, self.ema_decay = watch or DivergenceWatch(None), ema_decay
        self.ema = deepcopy(network, {id(buffer): buffer for buffer in network.buffers()}) if ema_decay else None
        self.device = next(network.parameters()).device
        # Where it is not enabled, it hands everything through unscaled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.iteration = 0
        self._latest: tuple[Tensor, ...] | None = None

    @property
    def learning_rate(self) -> float:
        """Rate of the next iteration."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def averaged(self) -> Network:
        """The network to validate and to export: the moving average, with the latest BatchNorm statistics."""
        return self.network if self.ema is None else self.ema

    @property
    def start_share(self) -> float:
        """Share of the weights of the first iteration in the moving average; 0 without one."""
        return self.ema_decay ** (self.iteration - 1) if self.ema_decay and self.iteration else 0.0

    def steps(self) -> Iterator[Losses]:
        """Train to the last iteration; yield the losses after each, when :meth:`state_dict` is complete, or raise Diverged."""
        while self.iteration < self.total:
            losses = self.step()
            loss = sum(losses.values())
            if not math.isfinite(loss):
                raise self.diverged(f"the loss is {loss}")
            self.watch.note(loss)
            if self.watch.diverged:
                raise self.diverged(self.watch.describe())
            yield losses

    def step(self) -> Losses:
        """Move the weights once, on the next ``accumulate`` batches; return the means of their losses."""
        self.before_step(self.iteration)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number in range(1, self.accumulate + 1):
            self._latest = tuple(part.to(self.device) for part in self.stream.next())
            with gradient_sync(self._replica, number == self.accumulate):
                losses = self._losses(self.forward, *self._latest)
                # Gradients add up over the batches to that of the mean loss.
                self.scaler.scale(torch.stack(list(losses.values())).sum() / self.accumulate).backward()
            sums = {name: sums.get(name, 0) + loss.detach() for name, loss in losses.items()}
        if self.grad_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)  # the limit applies to the gradient itself
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.ema is not None:
            self.move_average(1 - self.ema_decay if self.iteration else 1)
        self.iteration += 1
        means = mean(list(sums.values()))
        return {name: total.item() / self.accumulate for name, total in zip(sums, means, strict=True)}

    def move_average(self, share: float) -> None:
        """Move the average this share of its way to the weights."""
        averages, weights = ([weight.detach() for weight in network.parameters()] for network in (self.averaged, self.network))
        torch._foreach_lerp_(averages, weights, share)

    def _losses(self, forward: Callable[[Tensor], Any], x: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.device.type == "cpu":  # whose convolutions prefer it; the images alone decide, and weights stay as they are
            x = x.to(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            output = forward(x)
            losses = {"loss": self.loss(output, target)}
            if self.distillation is not None:
                losses["distill"] = self.distillation(x, output)
        return losses

    def refuse_diverged(self) -> None:
        """Raise :class:`Diverged` where the weights are not finite, before they replace good ones on disk."""
        name = first_non_finite(self.network)
        if name is not None:
            raise self.diverged(f"{name} is no longer finite")

    @torch.no_grad()
    def is_sound(self) -> bool:
        """Whether the state may replace an earlier one on disk: false where the loss was, or is now, far above what it was.

        The latest losses are those of weights before the last step, so the latest batch is run once more.
        """
        if self.watch.suspicious:
            return False
        if self._latest is None:
            return True
        self.network.eval()  # keeps BatchNorm statistics as they are
        loss = sum(part.item() for part in self._losses(self.network, *self._latest).values())
        self.network.train()
        return not largest(self.watch.far_above(loss))

    def diverged(self, reason: str) -> Diverged:
        narrow = " or train.precision to bf16 or fp32," if self.precision == "fp16" else ""
        return Diverged(
            f"the training has diverged at iteration {self.iteration}: {reason}. Lower train.optim_g.lr, set "
            f"train.grad_clip_norm,{narrow} or warm up longer with train.warmup_iter."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on; tensors and plain Python values only."""
        names = ("network", "optimizer", "scheduler", "scaler", "stream", "watch")
        parts = {name: getattr(self, name).state_dict() for name in names}
        return {"iteration": self.iteration, "ema": None if self.ema is None else self.ema.state_dict(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self._latest = count_of(state["iteration"], self.total), None
        for name in ("network", "optimizer", "scheduler", "stream", "watch"):
            getattr(self, name).load_state_dict(state[name])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if state["scaler"]:  # empty where the run began in another precision, on another device
            self.scaler.load_state_dict(state["scaler"])


def check_compiler(device: torch.device) -> None:
    """Compile and run a small module: ``torch.compile`` looks for a compiler at the first call only.

    Raises:
        UserError: PyTorch cannot compile for the device here; the text has its reason.
    """
    trial = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).to(device)
    try:
        torch.compile(trial)(torch.zeros(1, 1, 4, 4, device=device)).sum().backward()
    except Exception as error:  # PyTorch has no common type for a missing compiler, a missing Triton, an unknown Python
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2]) or type(error).__name__
        raise UserError(
            f"train.compile: PyTorch cannot compile for {device.type} here ({reason}). "
            "It needs a C++ compiler for the CPU and Triton for a GPU; install it, or set train.compile to false."
        ) from error
