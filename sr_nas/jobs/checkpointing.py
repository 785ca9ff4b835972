"""What a training writes: history, best and last network, and checkpoints to resume from."""

from __future__ import annotations

from typing import Any

from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import save_network
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.jobs.run import Run
from sr_nas.runs.checkpoint import save_checkpoint
from sr_nas.runs.device import peak_memory
from sr_nas.runs.distributed import from_first, is_first
from sr_nas.runs.run_dir import CHECKPOINT, append_history, cut_history
from sr_nas.task import Validator
from sr_nas.trainer import Losses, Trainer


class Checkpointer:
    """Validates a network and writes its states, never a diverged one over a good one.

    Of several processes the first measures and writes; every one has a checkpointer, and they agree on which network is best.

    Attributes:
        best: score of the best network so far, on the first validation set by the first metric.
        saved: iteration of the checkpoint on disk.
    """

    def __init__(self, run: Run, trainer: Trainer, validator: Validator) -> None:
        self.run, self.trainer, self.validator = run, trainer, validator
        self.best: float | None = None
        self.best_iteration = 0
        self.sums: Losses = {}
        self.count = 0
        self.saved: int | None = None

    def begin(self) -> None:
        """Write the checkpoint of iteration 0, or load that of the run which is resumed."""
        state = self.run.state
        if state is None:
            self.save()
            return
        self.best, self.best_iteration, self.sums, self.count = (state["keeper"][name] for name in self.state_dict())
        self.trainer.load_state_dict(state)
        self.saved = self.trainer.iteration
        if is_first():
            cut_history(self.run.folder, self.saved, key="iteration")

    def note(self, losses: Losses) -> None:
        """Add the losses of an iteration to the means of the next record."""
        self.sums = {name: self.sums.get(name, 0.0) + loss for name, loss in losses.items()}
        self.count += 1

    def validate(self) -> tuple[dict[str, Any], bool]:
        """Measure the network, write it and a history record; return the record and whether the network is the best so far.

        Raises:
            Diverged: the network or its output is not finite.
        """
        trainer, sets = self.trainer, list(self.validator.sets)
        trainer.refuse_diverged()
        means = {name: total / self.count for name, total in self.sums.items()}
        record: dict[str, Any] = {"iteration": trainer.iteration, **means, "learning_rate": trainer.learning_rate}
        self.sums, self.count = {}, 0
        improved = False
        if sets:
            record["val"] = from_first(self._measure)
            score = record["val"][sets[0]][self.validator.metrics[0]]
            improved = self.best is None or score > self.best
            if improved:
                self.best, self.best_iteration = score, trainer.iteration
        sound = trainer.iteration == trainer.total or trainer.is_sound()
        if is_first():
            for name in [BEST] * improved + [LAST] * sound:
                save_network(self.run.folder / name, trainer.averaged, self._card(record))
            append_history(self.run.folder, record | {"memory_bytes": peak_memory(trainer.device)})
        return record, improved

    def _measure(self) -> dict[str, Any]:
        try:
            return self.validator.measure(self.trainer.averaged)
        except NonFiniteOutput as error:
            raise self.trainer.diverged("the output for a validation image is not finite") from error

    def _card(self, record: dict[str, Any]) -> dict[str, Any]:
        options = self.run.options
        return {
            "run": options.name,
            "iteration": record["iteration"],
            "data": options.datasets.train.name or options.datasets.train.type,
            "seed": options.manual_seed,
            **self.validator.card(),
            "validation": self.validator.means(record),
        }

    def save(self) -> bool:
        """Write the checkpoint unless the training seems to diverge; return whether it was written.

        Raises:
            Diverged: the network is not finite.
        """
        self.trainer.refuse_diverged()
        if not self.trainer.is_sound():
            return False
        if is_first():
            save_checkpoint(self.run.folder / CHECKPOINT, self.trainer.state_dict() | {"keeper": self.state_dict()})
        self.saved = self.trainer.iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to compare with the best network so far."""
        return {"best": self.best, "best_iteration": self.best_iteration, "sums": self.sums, "count": self.count}

    def good_states(self) -> str:
        """Say which good states a diverged training leaves, and how to go on from them."""
        best = self.run.folder / (LAST if self.best is None else BEST)
        checkpoint = f"The last good checkpoint, {self.run.folder / CHECKPOINT}, is of iteration {self.saved}."
        if not best.is_file():
            return checkpoint
        score = ""
        if self.best is not None:
            where = f"on {next(iter(self.validator.sets))}, iteration {self.best_iteration}"
            score = f" ({self.best:.3f}{self.validator.unit} {where})"
        return f"{checkpoint} A new run with other options can start from {best}{score}: path.pretrain_network_g."
