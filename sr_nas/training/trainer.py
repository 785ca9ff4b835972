"""The training loop of a plain network: iterations, a moving average of the weights, validation on a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sr_nas.contracts import SRNetwork, Stream
from sr_nas.errors import UserError
from sr_nas.runs.precision import Precision, autocast


class Trainer:
    """One training: everything it needs to go on is in :meth:`state_dict`.

    Args:
        network: on its device.
        loss: (output, target) -> scalar.
        stream: batches of (LR, HR).
        optimizer: over the network's parameters.
        scheduler: stepped once per iteration.
        total: iterations of the whole training.
        ema_decay: decay of the moving average of the weights, whose buffers are the latest; 0 keeps the weights themselves.
        grad_clip_norm: largest norm of the gradient; ``None`` for no limit.
        precision: of forward passes.
    """

    def __init__(
        self,
        network: SRNetwork,
        loss: Callable[[Tensor, Tensor], Tensor],
        stream: Stream,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        total: int,
        ema_decay: float = 0.999,
        grad_clip_norm: float | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.network, self.loss, self.stream = network, loss, stream
        self.optimizer, self.scheduler, self.total = optimizer, scheduler, total
        self.grad_clip_norm, self.precision = grad_clip_norm, precision
        self.ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=False) if ema_decay else None
        self.device = next(network.parameters()).device
        self.iteration = 0

    @property
    def learning_rate(self) -> float:
        """That of the next iteration."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def averaged(self) -> SRNetwork:
        """The network to validate and to keep: the moving average, with the latest BatchNorm statistics."""
        return self.network if self.ema is None else self.ema.module  # type: ignore[return-value]

    def run(self, on_step: Callable[[float], None], between_steps: Callable[[], bool] = lambda: False) -> bool:
        """Train on from the current iteration.

        Args:
            on_step: called after every iteration with its loss.
            between_steps: called last after every iteration, when :meth:`state_dict` is complete; when it returns true,
                the training returns.

        Returns:
            Whether the training is finished.

        Raises:
            UserError: the loss is no longer finite.
        """
        self.network.train()
        while self.iteration < self.total:
            loss = self.step()
            if not abs(loss) < float("inf"):
                raise UserError(
                    f"the loss is {loss} at iteration {self.iteration}. Lower train.optim_g.lr or set train.grad_clip_norm. "
                    "The last checkpoint is from before."
                )
            on_step(loss)
            if between_steps():
                break
        return self.iteration >= self.total

    def step(self) -> float:
        """Move the weights once on the next batch; return the loss."""
        low, high = (part.to(self.device) for part in self.stream.next())
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            loss = self.loss(self.network(low), high)
        loss.backward()
        if self.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        if self.ema is not None:
            self._average()
        self.iteration += 1
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        assert self.ema is not None
        self.ema.update_parameters(self.network)
        for averaged, latest in zip(self.ema.module.buffers(), self.network.buffers(), strict=True):
            averaged.copy_(latest)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; tensors and plain Python values only."""
        return {
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stream": self.stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.iteration = state["iteration"]
        for name in ("network", "optimizer", "scheduler", "stream"):
            getattr(self, name).load_state_dict(state[name])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
