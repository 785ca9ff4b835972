"""``torch.compile``, tried before a run is made."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sr_nas.contracts import Network, Stream
from sr_nas.errors import UserError
from sr_nas.optim import WarmUp
from sr_nas.runs.checkpoint import first_non_finite
from sr_nas.runs.device import Precision, autocast
from sr_nas.runs.distributed import averaging, largest, mean, replicate


def check_compiler(device: torch.device) -> None:
    """Compile and run a small module, since ``torch.compile`` finds out about its compiler at the first call.

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


# MERGED sr_nas.trainer: Telling a training that has come to nothing from one that goes up and down.


WINDOW = 100
"""Iterations in the mean that is judged: so many that a hard batch, or a restart of the learning rate, does not count."""
RECENT = 10


class Diverged(UserError):
    """The training has come to nothing: its loss or its weights are not finite, or the loss is far above what it was."""


class DivergenceWatch:
    """Compares the mean of the last losses with the lowest such mean of the run.

    Args:
        factor: the loss has diverged where the mean is this many times the lowest one; ``None`` never judges.
        window: losses in a mean; before there are so many, nothing is judged.
    """

    def __init__(self, factor: float | None, window: int = WINDOW) -> None:
        self.factor, self.window = factor, window
        self.losses: deque[float] = deque(maxlen=window)
        self.lowest: float | None = None

    def note(self, loss: float) -> None:
        """Take in the loss of an iteration."""
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
        """Whether the mean of the last few losses is: what is saved now might be the beginning of a divergence."""
        return self.far_above(self._mean(RECENT))

    def describe(self) -> str:
        """Say how far the loss has gone up."""
        mean = self._mean(self.window)
        return f"the mean loss of the last {self.window} iterations is {mean:.4g}, and was {self.lowest:.4g} at its lowest"

    def far_above(self, loss: float) -> bool:
        """Whether a loss is as many times the lowest mean as a diverged one; false before there is such a mean."""
        return self.factor is not None and self.lowest is not None and self.lowest > 0 and not loss <= self.factor * self.lowest

    def _mean(self, count: int) -> float:
        last = list(self.losses)[-count:]
        return sum(last) / max(len(last), 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one does."""
        return {"losses": list(self.losses), "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.losses = deque(state["losses"], maxlen=self.window)
        self.lowest = state["lowest"]


# MERGED sr_nas.trainer: Knowledge distillation: a network also learns what another, the teacher,
# makes of its input.


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


# MERGED sr_nas.trainer: The training loop of a plain network: iterations, a moving average of the
# weights, validation on a schedule.


Losses = dict[str, float]
"""``loss``, the task loss; with a teacher also ``distill``. What is descended on is their sum."""


class Trainer:
    """One training: everything it needs to go on is in :meth:`state_dict`.

    Several processes may train together (:mod:`sr_nas.runs.distributed`), each with its slice of every batch: gradients and
    losses are means over them, so that all hold the weights of one process with the whole batches. BatchNorm alone sees
    slices, as in DistributedDataParallel.

    Args:
        network: on its device.
        loss: (output, target) -> scalar; the output is whatever the network returns.
        stream: batches of (input, target), such as (LR, HR).
        optimizer: over the network's parameters.
        scheduler: stepped once per iteration.
        total: iterations of the whole training.
        compiler: module -> what runs it in a step, such as ``torch.compile``; by default the module itself.
        distillation: adds its loss to the task loss.
        accumulate: batches of an iteration; it descends on the mean of their losses.
        ema_decay: decay of the moving average of the weights, whose buffers are the latest; 0 keeps the weights themselves.
        grad_clip_norm: largest norm of the gradient; ``None`` for no limit.
        precision: of forward passes. In fp16 the loss is scaled, so that small gradients are not lost, and an iteration whose
            gradient is not finite moves no weights and lowers the scale.
        watch: tells when the loss has diverged.
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
        compiler: Callable[[nn.Module], Callable[[Tensor], Any]] = lambda module: module,
        distillation: Distillation | None = None,
        accumulate: int = 1,
        ema_decay: float = 0.999,
        grad_clip_norm: float | None = None,
        precision: Precision = "fp32",
        watch: DivergenceWatch | None = None,
        before_step: Callable[[int], None] = lambda iteration: None,
    ) -> None:
        self.network, self.loss, self.stream = network, loss, stream
        self.optimizer, self.scheduler, self.total = optimizer, scheduler, total
        # Before anything copies the weights: the first process gives its own to all.
        self._replica = replicate(network)
        self.forward = compiler(self._replica)
        self.distillation = distillation
        self.accumulate, self.grad_clip_norm, self.precision = accumulate, grad_clip_norm, precision
        self.watch = DivergenceWatch(None) if watch is None else watch
        self.before_step = before_step
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=False) if ema_decay else None
        self.device = next(network.parameters()).device
        # Disabled it hands everything through unscaled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.iteration = 0
        self._latest: tuple[Tensor, ...] | None = None

    @property
    def learning_rate(self) -> float:
        """That of the next iteration."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def averaged(self) -> Network:
        """The network to validate and to keep: the moving average, with the latest BatchNorm statistics."""
        return self.network if self.ema is None else self.ema.module  # type: ignore[return-value]

    def run(self, on_step: Callable[[Losses], None], between_steps: Callable[[], bool] = lambda: False) -> bool:
        """Train on from the current iteration.

        Args:
            on_step: called after every iteration with its losses.
            between_steps: called last after every iteration, when :meth:`state_dict` is complete; when it returns true,
                the training returns.

        Returns:
            Whether the training is finished.

        Raises:
            Diverged: the loss is no longer finite, or far above what it was.
        """
        self.network.train()
        while self.iteration < self.total:
            losses = self.step()
            self._judge(sum(losses.values()))
            on_step(losses)
            if between_steps():
                break
        return self.iteration >= self.total

    def step(self) -> Losses:
        """Move the weights once, on the next ``accumulate`` batches; return the means of their losses."""
        self.before_step(self.iteration)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for number in range(1, self.accumulate + 1):
            self._latest = tuple(part.to(self.device) for part in self.stream.next())
            with averaging(self._replica, number == self.accumulate):
                losses = self._losses(self.forward, *self._latest)
                # Gradients add up over the batches: to those of the mean.
                self.scaler.scale(torch.stack(list(losses.values())).sum() / self.accumulate).backward()
            sums = {name: sums.get(name, 0) + loss.detach() for name, loss in losses.items()}
        if self.grad_clip_norm is not None:
            # The limit is meant for the gradient itself.
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self._average()
        self.iteration += 1
        means = mean(list(sums.values()))
        return {name: total.item() / self.accumulate for name, total in zip(sums, means, strict=True)}

    def _losses(self, forward: Callable[[Tensor], Any], given: Tensor, target: Tensor) -> dict[str, Tensor]:
        with autocast(self.device, self.precision):
            output = forward(given)
            losses = {"loss": self.loss(output, target)}
            if self.distillation is not None:
                losses["distill"] = self.distillation(given, output)
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        if self.ema is None:
            return
        self.ema.update_parameters(self.network)
        for averaged, latest in zip(self.ema.module.buffers(), self.network.buffers(), strict=True):
            averaged.copy_(latest)

    def _judge(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self.diverged(f"the loss is {loss}")
        self.watch.note(loss)
        if self.watch.diverged:
            raise self.diverged(self.watch.describe())

    def refuse_diverged(self) -> None:
        """Raise :class:`Diverged` where the weights are not finite, before they replace good ones on disk."""
        name = first_non_finite(self.network)
        if name is not None:
            raise self.diverged(f"{name} is no longer finite")

    @torch.no_grad()
    def is_sound(self) -> bool:
        """Whether the state may replace an earlier one on disk: false where the loss was, or now is, far above what it was.

        The losses so far are of weights that have been moved since, so the latest batch is asked about the present ones.
        """
        if self.watch.suspicious:
            return False
        if self._latest is None:
            return True
        self.network.eval()  # BatchNorm statistics must not notice
        loss = sum(part.item() for part in self._losses(self.network, *self._latest).values())
        self.network.train()
        return not largest(self.watch.far_above(loss))

    def diverged(self, what: str) -> Diverged:
        """Return the error for what has been found, with the iteration and what to try."""
        narrow = " or train.precision to bf16 or fp32," if self.precision == "fp16" else ""
        return Diverged(
            f"the training has diverged at iteration {self.iteration}: {what}. Lower train.optim_g.lr, set train.grad_clip_norm,"
            f"{narrow} or warm up longer with train.warmup_iter."
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; tensors and plain Python values only."""
        return {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stream": self.stream.state_dict(),
            "watch": self.watch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.iteration = state["iteration"]
        for name in ("network", "optimizer", "scheduler", "stream", "watch"):
            getattr(self, name).load_state_dict(state[name])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if state["scaler"]:  # empty where the run began in another precision, on another device
            self.scaler.load_state_dict(state["scaler"])
