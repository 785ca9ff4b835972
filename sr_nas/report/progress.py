"""Progress of a run (lines, a bar on a terminal, TensorBoard, Weights & Biases), and what history records say."""

from __future__ import annotations

import importlib
import math
import re
import statistics
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import Self

from sr_nas.errors import UserError, first_line, parse_json, short
from sr_nas.genotype import JOINT, Choices, Genotype
from sr_nas.options.sections import AnyRun, Logger
from sr_nas.runs.files import naming
from sr_nas.runs.run_dir import PROVENANCE

# The speed is averaged over the last 1,000 steps (all that rich keeps), however long they took: a step changes its price on
# the way, since a warm-up trains weights only.
SPEED_WINDOW = 7 * 24 * 3600.0
REFRESH_SECONDS = 0.25
DRAW = 0.05
"""A candidate that leads by less than this share of 1/N, the weight that all N have at the start, is not called the winner."""
# How MACs were counted. They differ by the square of the scale, so a number without its convention means nothing.
MACS_INPUTS = {"lr": "LR input", "hr": "HR output", None: "input"}


class RunView:
    """Progress of a run, a context manager: lines on the console, and below them a bar with the time left on a terminal.

    Args:
        console: where to print; a pipe or a dumb terminal gets the lines alone.
        name: of the run, shown beside the bar.
        total: steps of the whole run.
        start: steps done before this process began; they took it no time.
        print_freq: steps between two lines.
        epochs: that the steps are divided into.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        total: int,
        start: int = 0,
        print_freq: int = 100,
        epochs: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.total, self.print_freq = console, total, print_freq
        self.epochs, self.steps_per_epoch = epochs, total // max(1, epochs)  # a search of no epochs draws at random
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_interactive,
            auto_refresh=False,  # by a thread, whose locks a forked data loader worker could inherit
            speed_estimate_period=SPEED_WINDOW,
            get_time=clock,
        )
        self._task = self._progress.add_task(name, total=total, completed=start)
        self._next_refresh = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def time_left(self) -> str:
        """Time left, e.g. ``1:23:45``; ``unknown`` before the second step of this process."""
        return duration(self._progress.tasks[0].time_remaining)

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of the latest steps, validation and other pauses included; NaN before the second step."""
        return 1 / (self._progress.tasks[0].speed or math.nan)

    def message(self, *parts: str) -> None:
        """Print one line of parts, which is not read as markup; a terminal wraps it between words."""
        self.console.print(Text("  ".join(parts)), soft_wrap=not self.console.is_terminal)

    def advance(self, step: int) -> None:
        """Move the bar to the number of steps of the whole run that are done now."""
        now = self._progress.get_time()
        self._progress.update(self._task, completed=step, refresh=now >= self._next_refresh)
        if now >= self._next_refresh:
            self._next_refresh = now + REFRESH_SECONDS


class SearchView(RunView):
    """Progress of a search: a line per epoch, and every ``print_freq`` steps within one."""

    def step(self, step: int, losses: Mapping[str, float]) -> None:
        """Report a finished step; steps count from 1 over the whole search."""
        self.advance(step)
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        if (position + 1) % self.print_freq == 0 and position + 1 < self.steps_per_epoch:
            head = f"epoch {epoch + 1}/{self.epochs}  step {position + 1:,}/{self.steps_per_epoch:,}"
            self.message(head, *_named(losses), f"time left {self.time_left}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Report a finished epoch by its history record."""
        if "stopped" in record:
            self._progress.update(self._task, total=record["step"])
        self.message(
            f"epoch {record['epoch']}/{self.epochs}",
            *_named({**record["loss"], "lambda": record["lambda"]}),
            genotype_text(record),
            f"parameters {record['params']:,}",
            *(f"{name} {value}" for name, value in (macs(record) | truth(record) | budgets(record)).items()),
            *selection(record),
            *_named(record.get("stop", {})),
            *stopped(record),
            f"took {duration(record['seconds'])}",
            f"time left {self.time_left}",
        )


class TrainView(RunView):
    """Progress of a training: a line every ``print_freq`` iterations, and one per validation."""

    def step(self, iteration: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Report a finished iteration; they count from 1."""
        self.advance(iteration)
        if iteration % self.print_freq == 0 or iteration == self.total:
            values = _named({**losses, "learning rate": learning_rate})
            pace = f"{self.seconds_per_step:.3g} s an iteration"
            self.message(f"iteration {iteration:,}/{self.total:,}", *values, pace, f"time left {self.time_left}")

    def validation(self, iteration: int, scores: Mapping[str, str], best: bool, start: float = 0.0) -> None:
        """Report the scores, as text by validation set; ``best`` marks the best ones of the run so far.

        ``start`` is the share of the first weights in the validated ones, a moving average: where it is large, they lag behind.
        """
        parts = [f"{name} {text}" for name, text in scores.items()] + ["best so far"] * best
        average = [f"(moving average, {start:.0%} of it the start)"] * (start > 0.05)
        self.message(f"validation at {iteration:,}", *parts, *average)


def genotype_text(record: Mapping[str, Any]) -> str:
    """Return e.g. ``IMDN(conv_3x3, dsconv_3x3_bn)``; several candidates selected by one choice are joined with ``+``."""
    genotype = record["genotype"]
    names = [names if isinstance(names, str) else JOINT.join(names) for names in genotype["genotype"].values()]
    return f"{genotype['arch']}({', '.join(names)})"


def macs(record: Mapping[str, Any], decimals: int = 1) -> dict[str, str]:
    """Return every ``macs_[lr_|hr_]<width>x<height>`` of a record in G or M, by the full name of its convention."""
    matches = {key: re.fullmatch(r"macs_(?:(lr|hr)_)?(\d+x\d+)", key) for key in record}
    return {f"MACs, {MACS_INPUTS[match[1]]} {match[2]}": _giga(record[key], decimals) for key, match in matches.items() if match}


def budgets(record: Mapping[str, Any]) -> dict[str, str]:
    """Return each budget of a record's search, the cost of its network and what beta expects, as text."""
    return {
        f"budget {name}": f"{short(costs['decoded'])} of {short(costs['limit'])} (expected {short(costs['expected'])}, "
        f"multiplier {costs['multiplier']:.2f})"
        for name, costs in record.get("budget", {}).items()
    }


def selection(record: Mapping[str, Any]) -> list[str]:
    """Return how the network of a search's last record was chosen, as text; nothing where it is the argmax of alpha."""
    numbers = record.get("selection", {})
    if "scored" in numbers:
        return [f"best of {numbers['scored']} by loss: {numbers['best']:.6g}, median {numbers['median']:.6g}"]
    return [", ".join(_named(numbers))] if numbers else []


def stopped(record: Mapping[str, Any]) -> list[str]:
    """Return why a search ended before its last epoch, as text; nothing where it did not."""
    return [f"stopped after epoch {record['epoch']}: {record['stopped']}"] if "stopped" in record else []


def truth(record: Mapping[str, Any]) -> dict[str, str]:
    """Return data set -> what a benchmark knows of the record's network, once trained: accuracies in %, or PSNR in dB."""
    return {
        name: " ".join(f"{part} {value if isinstance(value, int) else f'{value:.2f}'}" for part, value in scores.items())
        for name, scores in record.get("truth", {}).items()
    }


def duration(seconds: float | None) -> str:
    """Return e.g. ``1:23:45`` or ``2 days, 3:04:05``; ``None`` is ``unknown``."""
    return "unknown" if seconds is None else str(timedelta(seconds=round(seconds)))


def _giga(count: float, decimals: int) -> str:
    return f"{count / 1e9:.{decimals}f} G" if count >= 1e9 else f"{count / 1e6:.{decimals}f} M"


def _named(values: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.6g}" for name, value in values.items()]


@dataclass(frozen=True)
class Decision:
    """How decisive a search was.

    ``initial_spread`` and ``final_spread`` are the population standard deviation of alpha within a choice, mean over the choices,
    in epoch 0 and the last; a shift common to a choice, which softmax does not see, is not in it. By label, ``weakest`` is beta
    of the weakest selected candidate, and ``margin`` that minus the strongest one dropped, negative where a budget or a selection
    chose another than alpha; choices that keep all are in neither.
    """

    initial_spread: float
    final_spread: float
    weakest: dict[str, float]
    margin: dict[str, float]


def decision(history: Sequence[Mapping[str, Any]], choices: Choices) -> Decision:
    """Compare the last epoch of a search with epoch 0, the record made before any step."""
    spreads = [statistics.fmean(map(statistics.pstdev, history[epoch]["alpha"].values())) for epoch in (0, -1)]
    weakest, margin, selected = {}, {}, dict(Genotype.from_json(history[-1]["genotype"]).picks)
    for label, choice in choices.items():
        if choice.picks < len(choice.candidates):
            beta = dict(zip(choice.candidates, history[-1]["beta"][label], strict=True))
            # Of spaces whose network keeps some of its choices alone, the heaviest.
            names = selected.get(label, sorted(beta, key=beta.__getitem__, reverse=True)[: choice.picks])
            weakest[label] = min(beta[name] for name in names)
            margin[label] = weakest[label] - max(beta[name] for name in beta if name not in names)
    return Decision(spreads[0], spreads[1], weakest, margin)


def clarity(history: Sequence[Mapping[str, Any]], choices: Choices) -> list[tuple[str, ...]]:
    """Return a row of texts for each choice of the last network: its label, what is kept, the beta of the weakest of that, its
    lead over the rest (:class:`Decision`), 1/N, and whether the lead is less than :data:`DRAW` of that, a draw."""
    margins, rows = decision(history, choices), list[tuple[str, ...]]()
    for label, names in Genotype.from_json(history[-1]["genotype"]).picks:
        texts = ("decided by several choices" if label not in choices else "keeps all it can", "", "", "")
        if label in margins.weakest:
            even = 1 / len(choices[label].candidates)
            draw = abs(margins.margin[label]) < DRAW * even
            texts = (f"{margins.weakest[label]:.3f}", f"{margins.margin[label]:+.3f}", f"{even:.3f}", "a draw" * draw)
        rows.append((label, JOINT.join(names), *texts))
    return rows


class Sink(ABC):
    """Where the numbers of a run go, beside its history. Another one is a subclass, and its option in :data:`SINKS`.

    Attributes:
        module: that must be there.
        install: what brings it.
    """

    module: ClassVar[str]
    install: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, options: AnyRun, start: int) -> None:
        """Open it for a run in its folder, of which ``start`` steps were done before this process began."""

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step by name; names with the same part before a slash share a group of charts."""

    def flush(self) -> None:  # noqa: B027 # nothing, where it does so by itself
        """Write everything to disk: a run that is resumed from the checkpoint which follows writes nothing earlier again."""

    @abstractmethod
    def close(self) -> None:
        """Finish."""


class TensorBoard(Sink):
    """Events in the folder ``tb`` of the run folder. What an earlier process wrote after the start is dropped by TensorBoard."""

    module, install = "torch.utils.tensorboard", "sr_nas[tensorboard]"

    def __init__(self, folder: Path, options: AnyRun, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _without_disks
        self._folder = folder / "tb"
        with naming(self._folder):
            self._writer = SummaryWriter(self._folder, purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with naming(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        with naming(self._folder):
            self._writer.flush()

    def close(self) -> None:
        with naming(self._folder):
            self._writer.close()


class WeightsAndBiases(Sink):
    """A run of Weights & Biases, which goes on where the run is resumed; its files are in ``wandb`` of the run folder."""

    module, install = "wandb", "sr_nas[wandb]"

    def __init__(self, folder: Path, options: AnyRun, start: int) -> None:
        import wandb

        section, content = options.logger.wandb, options.model_dump(mode="json")
        begun = parse_json((folder / PROVENANCE).read_bytes(), folder / PROVENANCE, halves="surrogateescape")[0]
        identity = section.resume_id or sha256(f"{folder.name} {begun.get('started')}".encode(errors="replace")).hexdigest()[:16]
        about: dict[str, Any] = {"project": section.project, "name": folder.name, "config": content, "dir": str(folder)}
        try:
            settings = wandb.Settings(console="off", silent=True)
            self._run = wandb.init(id=identity, resume="allow", settings=settings, **about)
        except wandb.Error as error:
            advice = "Log in with: wandb login. Or keep it here, for wandb sync, with WANDB_MODE=offline in the environment."
            raise UserError(f"logger.wandb: {first_line(error)}. {advice}") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, type[Sink]] = {"use_tb_logger": TensorBoard, "wandb": WeightsAndBiases}
"""Option of ``logger`` -> what it turns on."""


def wanted_sinks(logger: Logger) -> list[type[Sink]]:
    """Return the sinks that options ask for; raise UserError where one is not installed."""
    wanted = [name for name in SINKS if getattr(logger, name) and (name != "wandb" or logger.wandb.project)]
    return [_installed(name, SINKS[name]) for name in wanted]


def _installed(name: str, sink: type[Sink]) -> type[Sink]:
    try:
        importlib.import_module(sink.module)
    except ImportError as error:
        install = f"pip install '{sink.install}', or leave it out."
        raise UserError(f"logger.{name}: {sink.__name__} is not installed ({error}). {install}") from error
    return sink


class Sinks:
    """The sinks of a run; none in processes but the first, whose ``folder`` is ``None``."""

    def __init__(self, folder: Path | None, options: AnyRun, start: int = 0) -> None:
        kinds = [] if folder is None else wanted_sinks(options.logger)
        self._sinks = [kind(cast(Path, folder), options, start) for kind in kinds]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step to all."""
        for sink in self._sinks:
            sink.write(step, values)

    def flush(self) -> None:
        """Write everything to disk; call it before a checkpoint."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Finish all."""
        for sink in self._sinks:
            sink.close()


def numbers(record: Mapping[str, Any], under: str = "") -> dict[str, float]:
    """Return the numbers of a history record, those within its mappings by names such as ``loss/train``; lists are left out."""
    flat: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{under}{name}/")
        elif isinstance(value, int | float):
            flat[under + name] = value
    return flat


def _without_disks(arguments: threading.ExceptHookArgs) -> None:
    """Print what ends a thread, unless it is a disk: TensorBoard raises that in the run too."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)
