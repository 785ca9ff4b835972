"""A training, from its options to a network in a run folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rich.console import Console

from sr_nas.build import build_trainer, build_training
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST
from sr_nas.jobs.checkpointing import Checkpointer
from sr_nas.jobs.run import Run
from sr_nas.options.sections import AnyTraining
from sr_nas.report.progress import Scalars, TrainView, check_tensorboard
from sr_nas.runs.device import pick_device, resolve_precision
from sr_nas.runs.distributed import GracefulShutdown, is_first
from sr_nas.task import find_task
from sr_nas.trainer import Diverged, Trainer


def run_training(options: AnyTraining, console: Console, auto_resume: bool = False) -> tuple[Path, int]:
    """Train, or resume a training; each of several processes calls this, within :func:`sr_nas.runs.distributed.processes`.

    Args:
        options: checked options.
        console: where the first process shows progress.
        auto_resume: resume the newest run of this name, where there is one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the training.

    Raises:
        UserError: something that the options ask for is missing, or the training has diverged.
    """
    # Everything is built, and thereby checked, before there is a folder.
    device = pick_device(options.num_gpu)
    precision = resolve_precision(device, options.train.precision)
    logger = options.logger
    if logger.use_tb_logger:
        check_tensorboard()
    images, network, start = build_training(options)
    run = Run.create_or_resume(options, auto_resume)
    validator = find_task(options.task).validator(options, network, images, device)
    trainer = build_trainer(options, images, network, device, precision, run.initial_world_size)

    run.open(device)
    checkpointer = Checkpointer(run, trainer, validator)
    checkpointer.begin()
    console = console if is_first() else Console(quiet=True, force_terminal=False)
    name, done, total = run.folder.name, trainer.iteration, trainer.total
    with (
        closing(run),
        closing(Scalars(run.folder if logger.use_tb_logger and is_first() else None, done)) as scalars,
        TrainView(console, name, total, done, logger.print_freq) as view,
        GracefulShutdown() as stop,
    ):
        run.say(view, f"{run.begins('training', f'{device} in {precision}')}, iteration {done} of {total}")
        run.say(view, *(start if run.state is None else []), *validator.notes())
        if len(validator.sets) > 1:
            metric = validator.heading.split(" / ")[0]
            run.say(view, f"the best network is judged by its {metric} on {next(iter(validator.sets))}")
        fit(trainer, checkpointer, options, view, scalars, stop)
        if trainer.iteration < total:
            resume = f"--auto_resume goes on from {checkpointer.saved}."
            run.say(view, f"stopped at iteration {trainer.iteration}, saved in {run.folder}. {resume}")
            return run.folder, stop.exit_code
        run.say(view, *(validator.draw(run.folder) if is_first() else []))
        run.say(view, f"the network is {run.folder / (BEST if validator.sets else LAST)}")
    return run.folder, 0


def fit(
    trainer: Trainer, checkpointer: Checkpointer, options: AnyTraining, view: TrainView, scalars: Scalars, stop: GracefulShutdown
) -> None:
    """Train to the end or until a signal: step, show, validate every ``val_freq``, save every ``save_checkpoint_freq``.

    Raises:
        UserError: the training has diverged; the text says which good states are left.
    """
    run, validator = checkpointer.run, checkpointer.validator
    val_freq = options.val.val_freq
    save_freq = options.logger.save_checkpoint_freq or val_freq

    def due(frequency: int) -> bool:
        return trainer.iteration % frequency == 0 or trainer.iteration == trainer.total

    try:
        for losses in trainer.steps():
            view.step(trainer.iteration, losses, trainer.learning_rate)
            checkpointer.note(losses)
            if due(options.logger.print_freq):
                scalars.write(trainer.iteration, {**losses, "learning_rate": trainer.learning_rate})
            if due(val_freq):
                record, improved = checkpointer.validate()
                means = validator.means(record)
                run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | means)
                scores = {f"{key}/{name}": value for name, values in means.items() for key, value in values.items()}
                scalars.write(trainer.iteration, scores)
                if means:
                    texts = {name: validator.format(values) for name, values in means.items()}
                    view.validation(trainer.iteration, texts, improved)
            stopping = stop.agreed()
            if stopping or due(save_freq):
                scalars.flush()
                if not checkpointer.save():
                    saved = f"the checkpoint stays that of iteration {checkpointer.saved}"
                    run.say(view, f"the loss is far above what it was: {saved}")
            if stopping:
                return
    except Diverged as error:
        run.log.info("%s", error)
        raise UserError(f"{error}\n{checkpointer.good_states()}") from error
