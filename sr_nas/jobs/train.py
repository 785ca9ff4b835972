"""A training, from its options to a network in a run folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console

from sr_nas.build import Task, build_trainer, build_training
from sr_nas.classification.labelled import Labelled
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST
from sr_nas.jobs.checkpointing import Keeper
from sr_nas.jobs.judged_classification import judge_classification
from sr_nas.jobs.run import batch_share, begun_with, open_run
from sr_nas.jobs.validation import Judge, judge_upscaling
from sr_nas.options.classification import ClassifierTrainOptions
from sr_nas.options.tasks import AnyTraining
from sr_nas.report.progress import Scalars, TrainView, check_tensorboard
from sr_nas.runs.device import pick_device, resolve_precision
from sr_nas.runs.distributed import GracefulShutdown, is_first
from sr_nas.runs.run_dir import cut_history
from sr_nas.trainer import Diverged, Losses


def run_training(options: AnyTraining, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
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
    task, beginnings = build_training(options)
    begun = begun_with(options, auto_resume)
    judge = judge_of(options, task, device)
    trainer = build_trainer(options, task, device, precision, begun)

    run = open_run(options, device, auto_resume)
    console = console if is_first() else Console(quiet=True, force_terminal=False)
    keeper = Keeper(run.folder, options, judge, device)
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
        GracefulShutdown() as stop,
    ):

        def say(text: str) -> None:
            run.log.info("%s", text)
            view.message(text)

        def due(frequency: int) -> bool:
            return trainer.iteration % frequency == 0 or trainer.iteration == trainer.total

        def on_step(losses: Losses) -> None:
            view.step(trainer.iteration, losses, trainer.learning_rate)
            keeper.note(losses)
            if due(options.logger.print_freq):
                scalars.write(trainer.iteration, {**losses, "learning_rate": trainer.learning_rate})
            if due(options.val.val_freq):
                record, improved = keeper.keep(trainer)
                run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | judge.means(record))
                scalars.write(trainer.iteration, judge.by_metric(record))
                if "val" in record:
                    scores = {name: judge.words(means) for name, means in record["val"].items()}
                    view.validation(trainer.iteration, scores, improved)

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
        for text in judge.beginning:
            say(text)
        if len(judge.sets) > 1:
            say(f"the best network is judged by its {judge.heading.split(' / ')[0]} on {judge.sets[0]}")
        try:
            finished = trainer.run(on_step, between_steps)
        except Diverged as error:
            run.log.info("%s", error)
            raise UserError(f"{error}\n{keeper.what_is_left()}") from error
        if not finished:
            say(f"stopped at iteration {trainer.iteration}, saved in {run.folder}. --auto_resume goes on from {keeper.saved}.")
            return run.folder, stop.exit_code
        for text in judge.picture(run.folder) if is_first() else ():
            say(text)
        say(f"the network is {run.folder / (BEST if judge.sets else LAST)}")
    return run.folder, 0


def judge_of(options: AnyTraining, task: Task, device: torch.device) -> Judge:
    """Return how the network of a training is judged.

    Raises:
        UserError: a validation set cannot be read.
    """
    if isinstance(options, ClassifierTrainOptions):
        assert isinstance(task.images, Labelled)
        return judge_classification(options, task.module, task.images, device)
    return judge_upscaling(options, device)
