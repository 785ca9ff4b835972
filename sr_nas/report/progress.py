"""How long a run still takes."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from sr_nas.report.plots import Candidates, Record, genotype_text, macs, number, truth, winners

if TYPE_CHECKING:
    from typing_extensions import Self


Clock = Callable[[], float]
"""Seconds since some fixed moment, never going back."""

WINDOW = 10_000


class TimeLeft:
    """Time left, from the mean duration of the latest steps.

    Only steps of this process count: a run resumed at step 900 of 1000 has 100 steps left, and the 900 took it no time.
    The mean is taken over a window rather than the whole run because steps change their price on the way (a warm-up trains
    weights only).

    Args:
        total: steps of the whole run.
        start: steps done before this process began.
        clock: seconds; replaced in tests.
    """

    def __init__(self, total: int, start: int = 0, clock: Clock = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self._marks: deque[tuple[int, float]] = deque([(start, clock())])

    def advance(self, done: int, window: int = WINDOW) -> None:
        """Note that ``done`` steps of the run are finished now; steps more than ``window`` before that are forgotten."""
        self._marks.append((done, self._clock()))
        while len(self._marks) > 2 and self._marks[1][0] <= done - window:
            self._marks.popleft()

    @property
    def done(self) -> int:
        """Steps of the whole run finished so far."""
        return self._marks[-1][0]

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of a step, validation and other pauses included; NaN before the first one."""
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        return (ended - began) / (last - first) if last > first else math.nan

    @property
    def seconds(self) -> float:
        """Seconds left; NaN before the first step."""
        return self.seconds_per_step * (self.total - self.done)


def duration(seconds: float) -> str:
    """Return e.g. ``1:23:45`` or ``2 days, 3:04:05``; NaN is ``unknown``."""
    return "unknown" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))


def step_duration(seconds: float) -> str:
    """Return the duration of one step in the unit that suits it; NaN is ``unknown``."""
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


# MERGED sr_nas.report.progress: One panel redrawn in place on a terminal, plain lines anywhere else: what all live
# views share.


SECONDS_BETWEEN_DRAWINGS = 0.25

SHARE_OF_TIME = 0.01
"""Largest share of the time of a run that goes into drawing."""


class View(ABC):
    """Where the progress of a run is shown; a context manager.

    The panel is drawn by the calling thread (one of its own would draw half-updated state and compete with the training step),
    at most four times a second, and less often where that would take more than ``SHARE_OF_TIME``: a large panel, a slow line.

    Args:
        console: its being a terminal decides between panel and lines.
        clock: seconds; replaced in tests.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.is_live = console.is_terminal and not console.is_dumb_terminal
        self._clock = clock
        self._next_drawing = -math.inf
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    @abstractmethod
    def panel(self, width: int, height: int) -> RenderableType:
        """Return the panel for the room there is, in characters."""

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
            self._redraw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_live:
            self._redraw()
            self._live.stop()

    def message(self, text: str) -> None:
        """Print one line that stays, above the panel where there is one. It is never wrapped or read as markup."""
        self.console.print(Text(text), soft_wrap=True)

    def _changed(self) -> None:
        """Redraw the panel unless that was done just now."""
        if self.is_live and self._clock() >= self._next_drawing:
            self._redraw()

    def _redraw(self) -> None:
        began = self._clock()
        # One row stays free: it keeps the latest message in sight above a panel that fills the window.
        self._live.update(self.panel(self.console.width, self.console.height - 1), refresh=True)
        ended = self._clock()
        self._next_drawing = ended + max(SECONDS_BETWEEN_DRAWINGS, (ended - began) / SHARE_OF_TIME)

    def _frozen(self, parts: Iterable[RenderableType], width: int) -> RenderableType:
        """Lay out parts once, for drawing them often."""
        lines = self.console.render_lines(Group(*parts), self.console.options.update(width=width), new_lines=True)
        return Segments([segment for line in lines for segment in line])


# MERGED sr_nas.report.progress: The panels of the live views: what they show, laid out in the room there is.


BORDER = 4
"""Columns that a panel's frame and padding take; its frame takes 2 rows."""

NARROWEST_BETA_COLUMN = 38
COMFORTABLE_BETA_COLUMN = 58


def frame(name: str, parts: Iterable[RenderableType], width: int) -> Panel:
    """Stack the parts in a panel titled with the name of the run."""
    return Panel(
        Group(*parts), title=Text(name, style="bold"), title_align="left", border_style="dim", width=width, box=box.ROUNDED
    )


def progress_rows(rows: Sequence[tuple[str, int, int, str]], width: int) -> RenderableType:
    """Return one bar per (name, done, total, remark), with the names, bars and remarks aligned."""
    counts = [f"{done:,}/{total:,}" for _, done, total, _ in rows]
    taken = max(len(name) for name, *_ in rows) + max(map(len, counts)) + max(len(remark) for *_, remark in rows) + 6
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for (name, done, total, remark), count in zip(rows, counts, strict=True):
        bar = ProgressBar(
            total=max(total, 1), completed=done, width=max(width - taken, 4), complete_style="cyan", finished_style="cyan"
        )
        table.add_row(name, count, bar, Text(remark, no_wrap=True))
    return table


def figures(values: Mapping[str, str]) -> RenderableType:
    """Return values with their names above them."""
    table = Table.grid(padding=(0, 3, 0, 0))
    for _ in values:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in values))
    table.add_row(*(Text(value, style="bold") for value in values.values()))
    return table


def genotype_lines(record: Record) -> list[RenderableType]:
    """Return two lines: the network that the search prefers after an epoch; its MACs, and its true accuracy if it is known."""
    network = f"{record['genotype']['arch']} with {record['params']:,} parameters"
    summary = f"after epoch {record['epoch']}   {network}   lambda {number(record['lambda'])}"
    costs = "   ".join(f"{name}  {value}" for name, value in (macs(record) | truth(record)).items())
    return [Text(summary, no_wrap=True), Text(costs, no_wrap=True)]


def beta_bars(record: Record, choices: Candidates, width: int, height: int) -> RenderableType:
    """Draw the strongest candidates of every choice as bars, what the genotype keeps first and in bold.

    All bars share one scale, from 0 to the largest beta. Choices fill the columns downwards. Where even one row per choice does
    not fit, the last ones are counted instead.
    """
    kept = {label: winners(record, label, names) for label, names in choices.items()}
    columns, rows, shown = _fit(choices, kept, width, height)
    per_column = math.ceil(len(shown) / columns)
    label_width = max(map(len, shown))
    name_width = max(len(name) for label in shown for name in choices[label])
    bar_width = max((width + 2) // columns - label_width - name_width - 11, 4)
    longest = max(float(np.nan_to_num(record["beta"][label]).max()) for label in shown)
    outer = Table.grid(padding=(0, 2, 0, 0))
    cells = []
    for start in range(0, len(shown), per_column):
        cell = Table.grid(padding=(0, 1, 0, 0))
        cell.add_column(width=label_width)
        cell.add_column(width=name_width)
        for label in shown[start : start + per_column]:
            _add_choice(cell, label, choices[label], record["beta"][label], kept[label], rows, longest, bar_width)
        cells.append(cell)
    outer.add_row(*cells)
    if len(shown) == len(choices):
        return outer
    return Group(outer, Text(f"and {len(choices) - len(shown)} more: enlarge the window", style="dim", no_wrap=True))


def _fit(choices: Candidates, kept: Mapping[str, Sequence[str]], width: int, height: int) -> tuple[int, int, list[str]]:
    """Return the number of columns, the candidates shown per choice, and the labels shown."""
    labels = list(choices)

    def tallest(shown: int, columns: int, rows: int) -> int:
        heights = [max(min(rows, len(choices[label])), len(kept[label])) for label in labels[:shown]]
        per_column = math.ceil(shown / columns)
        return max(sum(heights[start : start + per_column]) for start in range(0, shown, per_column))

    comfortable = min(max(width // COMFORTABLE_BETA_COLUMN, 1), len(labels))
    narrow = min(max(width // NARROWEST_BETA_COLUMN, 1), len(labels))
    for columns in range(comfortable, narrow + 1):
        for rows in range(max(map(len, choices.values())), 0, -1):
            if tallest(len(labels), columns, rows) <= height:
                return columns, rows, labels
    fitting = [shown for shown in range(1, len(labels)) if tallest(shown, min(narrow, shown), 1) < height]
    shown = max(fitting, default=1)
    return min(narrow, shown), 1, labels[:shown]


def _add_choice(
    table: Table,
    label: str,
    names: Sequence[str],
    beta: Sequence[float],
    kept: Sequence[str],
    rows: int,
    longest: float,
    bar_width: int,
) -> None:
    order = sorted(range(len(names)), key=lambda index: (names[index] not in kept, -beta[index]))
    for position, index in enumerate(order[: max(rows, len(kept))]):
        won = names[index] in kept
        colour = "green" if won else "bright_black"
        # A search that diverged has a beta of NaN, which no bar can show; its figure does.
        length = float(np.nan_to_num(beta[index]))
        table.add_row(
            Text(label if position == 0 else "", style="bold", no_wrap=True),
            Text(names[index], style="bold green" if won else "", no_wrap=True),
            ProgressBar(total=longest or 1.0, completed=length, width=bar_width, complete_style=colour, finished_style=colour),
            Text(f"{beta[index]:.3f}", style="bold" if won else "", no_wrap=True),
        )


# MERGED sr_nas.report.progress: The progress of a search and of a training run, for the person who waits for it.


Quality = Mapping[str, float]
"""Scores of one validation set, such as ``psnr`` in dB and ``ssim``."""


def psnr_ssim(quality: Quality) -> str:
    """Say ``psnr`` and ``ssim``."""
    return f"{quality['psnr']:.3f} dB / {quality['ssim']:.4f}"


class SearchView(View):
    """Show a search: on a terminal a panel redrawn in place, elsewhere a line per epoch and every ``print_freq`` steps within.

    Args:
        console: where to show it.
        name: name of the run.
        choices: label -> candidate names.
        steps_total: steps of the whole search, all epochs.
        start: steps done before this process began, where the search is resumed.
        print_freq: steps between two lines.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        choices: Candidates,
        steps_total: int,
        start: int = 0,
        print_freq: int = 100,
        clock: Clock = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._name = name
        self._choices = choices
        self._print_freq = print_freq
        self._time = TimeLeft(steps_total, start, clock)
        self._progress: tuple[int, int, int, int] | None = None
        self._losses: Mapping[str, float] = {}
        self._record: Record | None = None
        self._laid_out: tuple[tuple[int, int], RenderableType] | None = None

    def step(self, epoch: int, epochs: int, step_in_epoch: int, steps_per_epoch: int, losses: Mapping[str, float]) -> None:
        """Note a finished step. Epochs and the steps in them count from 1."""
        self._progress = (epoch, epochs, step_in_epoch, steps_per_epoch)
        self._losses = losses
        self._time.advance((epoch - 1) * steps_per_epoch + step_in_epoch, window=steps_per_epoch)
        self._changed()
        if not self.is_live and step_in_epoch % self._print_freq == 0 and step_in_epoch < steps_per_epoch:
            parts = [f"epoch {epoch}/{epochs}  step {step_in_epoch:,}/{steps_per_epoch:,}"]
            parts += [f"{name} {value}" for name, value in _numbers(losses).items()]
            self.message("  ".join([*parts, f"time left {duration(self._time.seconds)}"]))

    def epoch(self, record: Record) -> None:
        """Note a finished epoch by its history record."""
        self._record = record
        self._laid_out = None
        if not self.is_live:
            self.message(self._epoch_line(record))

    def _epoch_line(self, record: Record) -> str:
        epochs = f"/{self._progress[1]}" if self._progress else ""
        parts = [f"epoch {record['epoch']}{epochs}"]
        parts += [f"{name} {number(value)}" for name, value in record["loss"].items()]
        parts += [f"lambda {number(record['lambda'])}", genotype_text(record), f"parameters {record['params']:,}"]
        parts += [f"{name} {value}" for name, value in (macs(record) | truth(record)).items()]
        parts += [f"took {duration(record['seconds'])}", f"time left {duration(self._time.seconds)}"]
        return "  ".join(parts)

    def panel(self, width: int, height: int) -> RenderableType:
        inner = width - BORDER
        parts: list[RenderableType] = []
        if self._progress is None:
            parts.append(Text("preparing the first step"))
        else:
            epoch, epochs, step, steps = self._progress
            rows = [
                ("run", self._time.done, self._time.total, f"{duration(self._time.seconds)} left"),
                (f"epoch {epoch} of {epochs}", step, steps, f"{step_duration(self._time.seconds_per_step)} a step"),
            ]
            parts += [progress_rows(rows, inner), Text(), figures(_numbers(self._losses)), Text()]
        if self._record is None:
            parts.append(Text("The preferred network is shown from the end of the first epoch on.", style="dim"))
        else:
            parts.append(self._network(self._record, inner, height))
        return frame(self._name, parts, width)

    def _network(self, record: Record, width: int, height: int) -> RenderableType:
        if self._laid_out is None or self._laid_out[0] != (width, height):
            # Of the height go 2 rows to the frame, 2 to the bars, 2 to the losses, 2 to the genotype, 3 stay empty.
            parts = [*genotype_lines(record), Text(), beta_bars(record, self._choices, width, height - 11)]
            self._laid_out = ((width, height), self._frozen(parts, width))
        return self._laid_out[1]


class TrainView(View):
    """Show a training run: on a terminal a panel redrawn in place, elsewhere a line every ``print_freq`` iterations.

    Args:
        console: where to show it.
        name: name of the run.
        total: iterations of the whole run.
        start: iterations done before this process began, where the training is resumed.
        print_freq: iterations between two lines.
        clock: seconds; replaced in tests.
        scores: what is measured, as a heading.
        words: says the scores of a set.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        total: int,
        start: int = 0,
        print_freq: int = 100,
        clock: Clock = time.monotonic,
        scores: str = "PSNR / SSIM",
        words: Callable[[Quality], str] = psnr_ssim,
    ) -> None:
        super().__init__(console, clock)
        self._scores, self._words = scores, words
        self._name = name
        self._print_freq = print_freq
        self._time = TimeLeft(total, start, clock)
        self._figures: dict[str, float] = {}
        self._latest: tuple[int, Mapping[str, Quality]] | None = None
        self._best: tuple[int, Mapping[str, Quality]] | None = None

    def step(self, iteration: int, total: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Note a finished iteration; they count from 1."""
        self._time.total = total
        self._time.advance(iteration)
        self._figures = {**losses, "learning rate": learning_rate}
        self._changed()
        if not self.is_live and (iteration % self._print_freq == 0 or iteration == total):
            parts = [
                f"iteration {iteration:,}/{total:,}",
                *(f"{name} {value}" for name, value in _numbers(self._figures).items()),
            ]
            parts += [f"{step_duration(self._time.seconds_per_step)} an iteration", f"time left {duration(self._time.seconds)}"]
            self.message("  ".join(parts))

    def validation(self, iteration: int, results: Mapping[str, Quality], best: bool) -> None:
        """Note the scores by validation set; ``best`` says that they are the best of the run so far."""
        self._latest = (iteration, results)
        if best:
            self._best = self._latest
        if self.is_live:
            return
        parts = [f"validation at {iteration:,}", *(f"{name} {self._words(quality)}" for name, quality in results.items())]
        self.message("  ".join([*parts, "best so far"] if best else parts))

    def panel(self, width: int, height: int) -> RenderableType:
        inner = width - BORDER
        if not self._figures:
            return frame(self._name, [Text("preparing the first iteration")], width)
        progress = ("iteration", self._time.done, self._time.total, f"{duration(self._time.seconds)} left")
        values = {**_numbers(self._figures), "time of an iteration": step_duration(self._time.seconds_per_step)}
        parts: list[RenderableType] = [progress_rows([progress], inner), Text(), figures(values)]
        if self._latest is not None:
            parts += [Text(), self._validation_table(self._latest)]
        return frame(self._name, parts, width)

    def _validation_table(self, latest: tuple[int, Mapping[str, Quality]]) -> Table:
        shown = [("latest", latest)] if self._best is None else [("latest", latest), ("best", self._best)]
        table = Table.grid(padding=(0, 3, 0, 0))
        table.add_row(
            Text(self._scores, style="dim"), *(Text(f"{name}, at {iteration:,}", style="dim") for name, (iteration, _) in shown)
        )
        for test_set in latest[1]:
            table.add_row(Text(test_set), *(Text(self._words(results[test_set]), style="bold") for _, (_, results) in shown))
        return table


def _numbers(values: Mapping[str, float]) -> dict[str, str]:
    return {name: number(value) for name, value in values.items()}
