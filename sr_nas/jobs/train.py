"""A training, from its options to a network in a run folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sr_nas.build import build_pairs, build_trainer
from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import load_network, save_network
from sr_nas.inference.images import upscaler
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.jobs.opening import open_run
from sr_nas.metrics.benchmark import bicubic, evaluate_set
from sr_nas.metrics.psnr_ssim import psnr
from sr_nas.options.train import TrainOptions
from sr_nas.report.live import TrainView
from sr_nas.report.picture import comparison
from sr_nas.runs.checkpoint import refuse_non_finite, save_checkpoint
from sr_nas.runs.device import peak_memory, pick_device
from sr_nas.runs.folder import CHECKPOINT, append_history, cut_history
from sr_nas.runs.interrupt import Interrupt
from sr_nas.runs.precision import check_precision
from sr_nas.training.trainer import Trainer

PICTURE = "comparison.png"
ADVICE = "Lower train.optim_g.lr or set train.grad_clip_norm."


def run_training(options: TrainOptions, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
    """Train, or go on training.

    Args:
        options: checked options.
        console: where progress is shown.
        auto_resume: go on with the newest run of this name, where there is one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the training.
    """
    device = pick_device(options.num_gpu)
    check_precision(device, options.train.precision)
    beginnings: list[str] = []
    trainer = build_trainer(options, device, beginnings.append)
    val = options.datasets.val
    pairs = None if val is None else build_pairs(val, options.scale)
    baseline = None if pairs is None else evaluate_set(bicubic, pairs, options.scale)
    run = open_run(options, device, auto_resume)
    keeper = Keeper(run.folder, options, pairs, device)
    if run.state is not None:
        keeper.load_state_dict(run.state.pop("keeper"))
        trainer.load_state_dict(run.state)
        cut_history(run.folder, trainer.iteration, key="iteration")
    else:
        save_checkpoint(run.folder / CHECKPOINT, trainer.state_dict() | {"keeper": keeper.state_dict()})
    frequency = options.logger.save_checkpoint_freq or options.val.val_freq
    start = trainer.iteration

    with (
        closing(run),
        TrainView(console, run.folder.name, trainer.total, start, options.logger.print_freq) as view,
        Interrupt() as stop,
    ):

        def say(text: str) -> None:
            run.log.info("%s", text)
            view.message(text)

        def on_step(loss: float) -> None:
            view.step(trainer.iteration, trainer.total, loss, trainer.learning_rate)
            keeper.note(loss)
            if trainer.iteration % options.val.val_freq == 0 or trainer.iteration == trainer.total:
                refuse_non_finite(trainer.network, ADVICE)
                record, improved = keeper.keep(trainer)
                run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | means(record))
                if "val" in record:
                    view.validation(trainer.iteration, record["val"], improved)

        def between_steps() -> bool:
            if stop() or trainer.iteration % frequency == 0 or trainer.iteration == trainer.total:
                refuse_non_finite(trainer.network, ADVICE)
                save_checkpoint(run.folder / CHECKPOINT, trainer.state_dict() | {"keeper": keeper.state_dict()})
            return stop()

        verb = "training" if run.state is None else "going on"
        data = options.datasets.train.name or options.datasets.train.type
        say(f"{verb} in {run.folder} on {device} with {data}, iteration {start} of {trainer.total}")
        for text in beginnings if run.state is None else ():
            say(text)
        if baseline is not None:
            say(f"bicubic on the validation images: {baseline['psnr']:.3f} dB / {baseline['ssim']:.4f}")
        if not trainer.run(on_step, between_steps):
            say(f"stopped at iteration {trainer.iteration}, saved in {run.folder}. --auto_resume goes on from there.")
            return run.folder, stop.exit_code
        if pairs is not None:
            write_picture(run.folder, pairs, options.scale)
            say(f"{run.folder / PICTURE} shows {pairs.names[0]}: bicubic, the network, HR")
        say(f"the network is {run.folder / (LAST if pairs is None else BEST)}")
    return run.folder, 0


class Keeper:
    """Measures the network on a schedule, and keeps the best and the last of it.

    Args:
        folder: of the run.
        options: of the run.
        pairs: validation images, or ``None``.
        device: where the network runs.
    """

    def __init__(self, folder: Path, options: TrainOptions, pairs: Pairs | None, device: torch.device) -> None:
        self.folder, self.options, self.pairs, self.device = folder, options, pairs, device
        self.best: float | None = None
        self.loss_sum, self.losses = 0.0, 0

    def note(self, loss: float) -> None:
        """Take a loss into the mean of the next record."""
        self.loss_sum += loss
        self.losses += 1

    def keep(self, trainer: Trainer) -> tuple[dict[str, Any], bool]:
        """Validate, save, and add to the history; return the record, and whether it is the best so far."""
        record: dict[str, Any] = {
            "iteration": trainer.iteration,
            "loss": self.loss_sum / self.losses,
            "learning_rate": trainer.learning_rate,
        }
        self.loss_sum, self.losses = 0.0, 0
        improved = False
        val = self.options.datasets.val
        if self.pairs is not None and val is not None:
            try:
                scores = evaluate_set(upscaler(trainer.averaged, device=self.device), self.pairs, self.options.scale)
            except NonFiniteOutput as error:
                raise UserError(
                    f"validation: the run has diverged ({error}) {ADVICE} The last checkpoint is from before."
                ) from error
            record["val"] = {val.name or val.type: scores}
            improved = self.best is None or scores["psnr"] > self.best
            if improved:
                self.best = scores["psnr"]
                save_network(self.folder / BEST, trainer.averaged, self._summary(record))
        save_network(self.folder / LAST, trainer.averaged, self._summary(record))
        memory = peak_memory(self.device)
        append_history(self.folder, record | ({} if memory is None else {"memory_bytes": memory}))
        return record, improved

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one does."""
        return {"best": self.best, "loss_sum": self.loss_sum, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.best, self.loss_sum, self.losses = state["best"], state["loss_sum"], state["losses"]

    def _summary(self, record: dict[str, Any]) -> dict[str, Any]:
        data = self.options.datasets.train
        return {
            "run": self.options.name,
            "iteration": record["iteration"],
            "data": data.name or data.type,
            "seed": self.options.manual_seed,
            "loss": self.options.train.pixel_opt.type,
            "validation": means(record),
        }


def means(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The mean scores of a record, without those of each image."""
    return {name: {"psnr": scores["psnr"], "ssim": scores["ssim"]} for name, scores in record.get("val", {}).items()}


def write_picture(folder: Path, pairs: Pairs, scale: int) -> None:
    """Draw the best network's result on the first validation image beside bicubic and HR."""
    low, high = pairs.lr(0), pairs.hr(0)
    network = load_network(folder / BEST)
    results = {"bicubic": bicubic(low, scale), folder.name: upscaler(network, device=torch.device("cpu"))(low, scale)}
    columns = [(f"{name}, {psnr(result, high, scale):.2f} dB", result) for name, result in results.items()]
    comparison(folder / PICTURE, [*columns, ("HR", high)])
