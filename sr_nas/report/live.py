"""The progress of a search and of a training run, for the person who waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sr_nas.report import panels
from sr_nas.report.records import Candidates, Record, genotype_text, macs, number, truth
from sr_nas.report.timing import Clock, TimeLeft, duration, step_duration
from sr_nas.report.view import View

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
        inner = width - panels.BORDER
        parts: list[RenderableType] = []
        if self._progress is None:
            parts.append(Text("preparing the first step"))
        else:
            epoch, epochs, step, steps = self._progress
            rows = [
                ("run", self._time.done, self._time.total, f"{duration(self._time.seconds)} left"),
                (f"epoch {epoch} of {epochs}", step, steps, f"{step_duration(self._time.seconds_per_step)} a step"),
            ]
            parts += [panels.progress_rows(rows, inner), Text(), panels.figures(_numbers(self._losses)), Text()]
        if self._record is None:
            parts.append(Text("The preferred network is shown from the end of the first epoch on.", style="dim"))
        else:
            parts.append(self._network(self._record, inner, height))
        return panels.frame(self._name, parts, width)

    def _network(self, record: Record, width: int, height: int) -> RenderableType:
        if self._laid_out is None or self._laid_out[0] != (width, height):
            # Of the height go 2 rows to the frame, 2 to the bars, 2 to the losses, 2 to the genotype, 3 stay empty.
            parts = [*panels.genotype_lines(record), Text(), panels.beta_bars(record, self._choices, width, height - 11)]
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
        inner = width - panels.BORDER
        if not self._figures:
            return panels.frame(self._name, [Text("preparing the first iteration")], width)
        progress = ("iteration", self._time.done, self._time.total, f"{duration(self._time.seconds)} left")
        values = {**_numbers(self._figures), "time of an iteration": step_duration(self._time.seconds_per_step)}
        parts: list[RenderableType] = [panels.progress_rows([progress], inner), Text(), panels.figures(values)]
        if self._latest is not None:
            parts += [Text(), self._validation_table(self._latest)]
        return panels.frame(self._name, parts, width)

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
