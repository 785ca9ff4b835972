"""A training, from its options to a network in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sr_nas.build import build_pairs, build_trained_network, build_trainer
from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import load_network
from sr_nas.inference.images import upscaler
from sr_nas.jobs.keeper import Keeper, means
from sr_nas.jobs.opening import batch_share, begun_with, open_run
from sr_nas.metrics.benchmark import bicubic, evaluate_set
from sr_nas.metrics.psnr_ssim import psnr
from sr_nas.options.train import TrainOptions
from sr_nas.report.live import TrainView
from sr_nas.report.picture import comparison
from sr_nas.report.tensorboard import Scalars, check_tensorboard
from sr_nas.runs.device import pick_device
from sr_nas.runs.distributed import from_first, is_first
from sr_nas.runs.folder import cut_history
from sr_nas.runs.interrupt import Interrupt
from sr_nas.runs.precision import resolve_precision
from sr_nas.training.divergence import Diverged
from sr_nas.training.trainer import Losses

PICTURE = "comparison.png"


def run_training(options: TrainOptions, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
    """Train, or go on training; each of several processes calls this, within :func:`sr_nas.runs.distributed.processes`.

    Args:
        options: checked options.
        console: where the first process shows progress.
        auto_resume: go on with the newest run of this name, where there is one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the training.

    Raises:
        UserError: something is missing that the options ask for, or the training has diverged.
    """
    # Whatever may be missing is missed here, before there is a folder.
    device = pick_device(options.num_gpu)
    precision = resolve_precision(device, options.train.precision)
    if options.logger.use_tb_logger:
        check_tensorboard()
    network, beginnings = build_trained_network(options)
    begun = begun_with(options, auto_resume)
    trainer = build_trainer(options, network, device, precision, begun)
    sets = {name: build_pairs(section, options.scale) for name, section in options.datasets.validation().items()}
    baselines = from_first(lambda: {name: evaluate_set(bicubic, pairs, options.scale) for name, pairs in sets.items()})

    run = open_run(options, device, auto_resume)
    console = console if is_first() else Console(quiet=True, force_terminal=False)
    keeper = Keeper(run.folder, options, sets, device)
    if run.state is not None:
        keeper.take_up(trainer, run.state)
        if is_first():
            cut_history(run.folder, trainer.iteration, key="iteration")
    else:
        keeper.save(trainer)
    checkpoint_freq = options.logger.save_checkpoint_freq or options.val.val_freq
    start = trainer.iteration

    with (
        closing(run),
        closing(Scalars(run.folder if options.logger.use_tb_logger and is_first() else None, start)) as scalars,
        TrainView(console, run.folder.name, trainer.total, start, options.logger.print_freq) as view,
        Interrupt() as stop,
    ):

        def say(text: str) -> None:
            run.log.info("%s", text)
            view.message(text)

        def due(frequency: int) -> bool:
            return trainer.iteration % frequency == 0 or trainer.iteration == trainer.total

        def on_step(losses: Losses) -> None:
            view.step(trainer.iteration, trainer.total, losses, trainer.learning_rate)
            keeper.note(losses)
            if due(options.logger.print_freq):
                scalars.write(trainer.iteration, {**losses, "learning_rate": trainer.learning_rate})
            if due(options.val.val_freq):
                record, improved = keeper.keep(trainer)
                run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | means(record))
                scalars.write(trainer.iteration, by_metric(record))
                if "val" in record:
                    view.validation(trainer.iteration, record["val"], improved)

        def between_steps() -> bool:
            stopping = stop.agreed()
            if stopping or due(checkpoint_freq):
                scalars.flush()
                if not keeper.save(trainer):
                    say(f"the loss is far above what it was: the checkpoint stays that of iteration {keeper.saved}")
            return stopping

        verb = "training" if run.state is None else "going on"
        data = options.datasets.train.name or options.datasets.train.type
        share = batch_share(options, begun)
        say(f"{verb} in {run.folder} on {device} in {precision} with {data}{share}, iteration {start} of {trainer.total}")
        for text in beginnings if run.state is None else ():
            say(text)
        for name, scores in baselines.items():
            say(f"bicubic on {name}: {scores['psnr']:.3f} dB / {scores['ssim']:.4f}")
        if len(sets) > 1:
            say(f"the best network is judged by its PSNR on {next(iter(sets))}")
        try:
            finished = trainer.run(on_step, between_steps)
        except Diverged as error:
            run.log.info("%s", error)
            raise UserError(f"{error}\n{keeper.what_is_left()}") from error
        if not finished:
            say(f"stopped at iteration {trainer.iteration}, saved in {run.folder}. --auto_resume goes on from {keeper.saved}.")
            return run.folder, stop.exit_code
        if sets and is_first():
            pairs = next(iter(sets.values()))
            write_picture(run.folder, pairs, options.scale)
            say(f"{run.folder / PICTURE} shows {pairs.names[0]}: bicubic, the network, HR")
        say(f"the network is {run.folder / (BEST if sets else LAST)}")
    return run.folder, 0


def by_metric(record: Mapping[str, Any]) -> dict[str, float]:
    """The mean scores of a record by names that TensorBoard groups: a chart per metric and set."""
    return {f"{metric}/{name}": scores[metric] for name, scores in record.get("val", {}).items() for metric in ("psnr", "ssim")}


def write_picture(folder: Path, pairs: Pairs, scale: int) -> None:
    """Draw the best network's result on the first validation image beside bicubic and HR."""
    low, high = pairs.lr(0), pairs.hr(0)
    network = load_network(folder / BEST)
    results = {"bicubic": bicubic(low, scale), folder.name: upscaler(network, device=torch.device("cpu"))(low, scale)}
    columns = [(f"{name}, {psnr(result, high, scale):.2f} dB", result) for name, result in results.items()]
    comparison(folder / PICTURE, [*columns, ("HR", high)])
