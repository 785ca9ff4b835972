"""A training, from its options to a network in a run folder: what it runs, when it validates, and what it writes."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sr_nas.contracts import Network, reparameterized
from sr_nas.errors import UserError
from sr_nas.export.model import BEST, LAST
from sr_nas.export.network_file import save_network
from sr_nas.inference.tiles import NonFiniteOutput
from sr_nas.jobs.run import Run
from sr_nas.options.load import load_options
from sr_nas.options.sections import AnyTraining
from sr_nas.report.page import LiveReport
from sr_nas.report.progress import Sinks, TrainView, wanted_sinks
from sr_nas.runs.device import Precision, peak_memory, pick_device, resolve_precision
from sr_nas.runs.distributed import GracefulShutdown, from_first, is_first, processes
from sr_nas.runs.run_dir import CHECKPOINT, append_history, cut_history, save_checkpoint
from sr_nas.task import Validator, build_trainer, build_training, find_task, training_options
from sr_nas.trainer import Diverged, Losses, Trainer


def main(args: Namespace) -> int:
    """Run the command ``train``; return its exit code."""
    with processes():
        return run_training(load_options(training_options, args.opt, args.force_yml), Console(), args.auto_resume, args.until)[1]


def run_training(options: AnyTraining, console: Console, auto_resume: bool = False, until: int | None = None) -> tuple[Path, int]:
    """Train, or resume a training; each of several processes calls this, within :func:`sr_nas.runs.distributed.processes`.

    Args:
        options: checked options.
        console: where the first process shows progress.
        auto_resume: resume the newest run of this name, where there is one.
        until: iteration to stop after, as a signal would; by default the last one.

    Returns:
        The run folder and the exit code: 0, or 128 plus the signal that stopped the training.

    Raises:
        UserError: something that the options ask for is missing, or the training has diverged.
    """
    device = pick_device(options.num_gpu)
    precision = resolve_precision(device, options.train.precision)
    wanted_sinks(options.logger)
    with Run.create_or_resume(options, auto_resume, until) as run:
        code = _train(run, options, device, precision, console if is_first() else Console(quiet=True, force_terminal=False))
        return run.folder, code


def _train(run: Run, options: AnyTraining, device: torch.device, precision: Precision, console: Console) -> int:
    # Everything is built, and thereby checked, before there is a folder.
    logger = options.logger
    images, network, start = build_training(options)
    trainer = build_trainer(options, images, network, device, precision, run.initial_world_size)
    measures = device.type == "cpu" and not options.train.compile  # compiled code is for one number of threads
    run.take_threads(measures, trainer, lambda: trainer.iteration < trainer.total and trainer.step())
    validator = find_task(options.task).validator(options, network, images, device)

    sizes = {f"{name}: {image}": size for name, pictures in validator.sets.items() for image, size in pictures.sizes.items()}
    run.open(device, images.sizes | sizes)
    checkpointer = Checkpointer(run, trainer, validator)
    checkpointer.begin(options.val.val_freq)
    report = LiveReport(run.folder if is_first() else None, network)
    name, done, total = run.folder.name, trainer.iteration, trainer.total
    with (
        closing(Sinks(run.folder if is_first() else None, options, done)) as sinks,
        TrainView(console, name, total, done, logger.print_freq) as view,
        GracefulShutdown() as stop,
    ):
        run.say(view, *run.notes, f"{run.begins('training', f'{device} in {precision}')}, iteration {done} of {total}")
        size = ", ".join(f"{key} {value}" for key, value in network.settings().items() if key != "genotype")
        count, trained = (sum(weight.numel() for weight in part.parameters()) for part in (network, trainer.network))
        branches = "" if trained == count else f", trained as {trained:,} in branches, which are folded in all that is kept"
        run.say(view, f"{network.arch}, {size}: {count:,} parameters{branches}")
        run.say(view, *(start if run.state is None else []), *validator.notes())
        if len(validator.sets) > 1:
            metric = validator.heading.split(" / ")[0]
            run.say(view, f"the best network is judged by its {metric} on {next(iter(validator.sets))}")
        if done < (run.until or total):
            fit(trainer, checkpointer, options, view, sinks, report, stop)
        if trainer.iteration < total:
            resume = f"--auto_resume goes on from {checkpointer.saved}."
            run.say(view, f"stopped at iteration {trainer.iteration}, saved in {run.folder}. {resume}")
            report.write()
            return stop.exit_code
        run.say(view, *(validator.draw(run.folder) if is_first() else []))
        report.write()
        run.say(view, f"the network is {run.folder / (BEST if validator.sets else LAST)}")
    return 0


def fit(
    trainer: Trainer,
    checkpointer: Checkpointer,
    options: AnyTraining,
    view: TrainView,
    sinks: Sinks,
    report: LiveReport,
    stop: GracefulShutdown,
) -> None:
    """Train to the end, the run's ``until`` or a signal: step, show, validate every ``val_freq``, save every so many iterations.

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
                sinks.write(trainer.iteration, {**losses, "learning_rate": trainer.learning_rate})
            if due(val_freq):
                record, improved = checkpointer.validate()
                means = validator.means(record)
                run.log.info("%s", {key: value for key, value in record.items() if key != "val"} | means)
                scores = {f"{key}/{name}": value for name, values in means.items() for key, value in values.items()}
                sinks.write(trainer.iteration, scores)
                if means:
                    texts = {name: validator.format(values) for name, values in means.items()}
                    view.validation(trainer.iteration, texts, improved, trainer.start_share)
                report.write_if_due()
            stopping = stop.agreed() or trainer.iteration == run.until
            if stopping or due(save_freq):
                sinks.flush()
                if not checkpointer.save():
                    saved = f"the checkpoint stays that of iteration {checkpointer.saved}"
                    run.say(view, f"the loss is far above what it was: {saved}")
            if stopping:
                return
    except Diverged as error:
        run.log.info("%s", error)
        raise UserError(f"{error}\n{checkpointer.good_states()}") from error


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

    def begin(self, every: int) -> None:
        """Write the checkpoint of iteration 0, or load that of a resumed run, whose history has a record ``every`` so many."""
        if self.run.state is None:
            self.save()
            return
        self.run.restore(self._load_state_dict, self.trainer.state_dict() | {"keeper": self.state_dict()})
        self.saved = self.trainer.iteration
        if is_first():
            total = self.trainer.total
            cut_history(self.run.folder, self.saved, [*range(every, total, every), total], key="iteration")

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration, self.sums, self.count = (state["keeper"][name] for name in self.state_dict())
        self.trainer.load_state_dict(state)

    def note(self, losses: Losses) -> None:
        """Add the losses of an iteration to the means of the next record."""
        self.sums = {name: self.sums.get(name, 0.0) + loss for name, loss in losses.items()}
        self.count += 1

    def validate(self) -> tuple[dict[str, Any], bool]:
        """Measure the network, write it and a history record; return the record and whether the network is the best so far.

        It is the moving average, with the branches of ``train.reparam`` folded.

        Raises:
            Diverged: the network or its output is not finite.
        """
        trainer, sets = self.trainer, list(self.validator.sets)
        trainer.refuse_diverged()
        means = {name: total / self.count for name, total in self.sums.items()}
        record: dict[str, Any] = {"iteration": trainer.iteration, **means, "learning_rate": trainer.learning_rate}
        self.sums, self.count = {}, 0
        improved, network = False, reparameterized(trainer.averaged, "training_only")
        if sets:
            record["val"] = from_first(lambda: self._measure(network))
            score = record["val"][sets[0]][self.validator.metrics[0]]
            improved = self.best is None or score > self.best
            if improved:
                self.best, self.best_iteration = score, trainer.iteration
        # After the last iteration nothing follows that could be better: the network is written whatever its loss.
        sound = trainer.iteration == trainer.total or trainer.is_sound()
        if is_first():
            for name in [BEST] * improved + [LAST] * sound:
                save_network(self.run.folder / name, network, self._card(record))
            append_history(self.run.folder, record | {"memory_bytes": peak_memory(trainer.device)})
        return record, improved

    def _measure(self, network: Network) -> dict[str, Any]:
        try:
            return self.validator.measure(network)
        except NonFiniteOutput as error:
            raise self.trainer.diverged("the output for a validation image is not finite") from error

    def _card(self, record: dict[str, Any]) -> dict[str, Any]:
        options = self.run.options
        return {
            "run": options.name,
            "iteration": record["iteration"],
            "total_iter": self.trainer.total,
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
        """Return the best score with its iteration, and the loss sums since the last validation."""
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
