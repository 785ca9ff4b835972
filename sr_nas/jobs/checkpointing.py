"""What a training keeps of its network: measured on a schedule, the best and the last, and checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import save_network
from sr_nas.jobs.validation import Judge
from sr_nas.options.tasks import AnyTraining
from sr_nas.runs.checkpoint import save_checkpoint
from sr_nas.runs.device import peak_memory
from sr_nas.runs.distributed import from_first, is_first
from sr_nas.runs.run_dir import CHECKPOINT, append_history
from sr_nas.trainer import Losses, Trainer


class Keeper:
    """Measures the network on a schedule, keeps the best and the last of it, and the state to go on from.

    Of several processes the first measures and writes; every one has a keeper, and they agree on what is best.

    Args:
        folder: of the run.
        options: of the run.
        judge: how the network is measured.
        device: where the network runs.
    """

    def __init__(self, folder: Path, options: AnyTraining, judge: Judge, device: torch.device) -> None:
        self.folder, self.options, self.judge, self.device = folder, options, judge, device
        self.best: float | None = None
        self.best_iteration = 0
        self.sums: Losses = {}
        self.count = 0
        self.saved: int | None = None

    def note(self, losses: Losses) -> None:
        """Take the losses of an iteration into the means of the next record."""
        self.sums = {name: self.sums.get(name, 0.0) + loss for name, loss in losses.items()}
        self.count += 1

    def keep(self, trainer: Trainer) -> tuple[dict[str, Any], bool]:
        """Validate, save, and add to the history; return the record, and whether it is the best so far.

        Raises:
            Diverged: the network or its output is not finite.
        """
        trainer.refuse_diverged()
        record: dict[str, Any] = {
            "iteration": trainer.iteration,
            **{name: total / self.count for name, total in self.sums.items()},
            "learning_rate": trainer.learning_rate,
        }
        self.sums, self.count = {}, 0
        improved = False
        if self.judge.sets:
            record["val"] = from_first(partial(self.judge.measure, trainer))
            score = record["val"][self.judge.sets[0]][self.judge.metrics[0]]
            improved = self.best is None or score > self.best
            if improved:
                self.best, self.best_iteration = score, trainer.iteration
        sound = trainer.iteration == trainer.total or trainer.is_sound()
        if is_first():
            self._write(trainer, record, [BEST] * improved + [LAST] * sound)
        return record, improved

    def save(self, trainer: Trainer) -> bool:
        """Write the checkpoint, unless it might replace a good one by one that is diverging; return whether it was written.

        Raises:
            Diverged: the network is not finite.
        """
        trainer.refuse_diverged()
        if not trainer.is_sound():
            return False
        if is_first():
            save_checkpoint(self.folder / CHECKPOINT, trainer.state_dict() | {"keeper": self.state_dict()})
        self.saved = trainer.iteration
        return True

    def take_up(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go back to where a checkpoint was taken."""
        self.best, self.best_iteration, self.sums, self.count = (state["keeper"][name] for name in self.state_dict())
        trainer.load_state_dict(state)
        self.saved = trainer.iteration

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one does."""
        return {"best": self.best, "best_iteration": self.best_iteration, "sums": self.sums, "count": self.count}

    def what_is_left(self) -> str:
        """Say which good states a training that has diverged leaves, and how to go on from them."""
        best = self.folder / (LAST if self.best is None else BEST)
        checkpoint = f"The last good checkpoint, {self.folder / CHECKPOINT}, is of iteration {self.saved}."
        if not best.is_file():
            return checkpoint
        where = f"{self.judge.unit} on {self.judge.sets[0]}, iteration {self.best_iteration}" if self.judge.sets else ""
        score = "" if self.best is None else f" ({self.best:.3f}{where})"
        return f"{checkpoint} A new run with other options can start from {best}{score}: path.pretrain_network_g."

    def _write(self, trainer: Trainer, record: dict[str, Any], names: list[str]) -> None:
        for name in names:
            save_network(self.folder / name, trainer.averaged, self._summary(record))
        memory = peak_memory(self.device)
        append_history(self.folder, record | ({} if memory is None else {"memory_bytes": memory}))

    def _summary(self, record: dict[str, Any]) -> dict[str, Any]:
        data = self.options.datasets.train
        return {
            "run": self.options.name,
            "iteration": record["iteration"],
            "data": data.name or data.type,
            "seed": self.options.manual_seed,
            **self.judge.told,
            "validation": self.judge.means(record),
        }
