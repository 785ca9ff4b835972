"""Many runs at a time: the trials of a sweep, each a search or a training in a process of its own, on this machine or on Ray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sr_nas.errors import UserError
from sr_nas.jobs.run import Run, dump_with_plugins
from sr_nas.jobs.search import GENOTYPE
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.report.progress import duration
from sr_nas.runs.device import cores
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import lock, write_text
from sr_nas.runs.run_dir import HISTORY, read_history

LOCK, OPTION_FILES, OUTPUTS = "sweep.lock", "options", "output"
"""Lock, and folders of the trials' option files and of what they print, in the folder of a sweep."""
# The pipe on its standard input ends with the process that has started it. Then a trial saves itself, as after Ctrl-C.
_CHILD = """import os, signal, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
from sr_nas.cli import main
sys.argv[0] = "sr-nas"
sys.exit(main(sys.argv[1:]))"""
_DONE = re.compile(r"(?:iteration|epoch) ([\d,]+)/([\d,]+)(?:  step ([\d,]+)/([\d,]+))?")


@dataclass(eq=False)
class Trial:
    """A run of a sweep, by its checked options: their name is the run's, their ``experiments_root`` the folder of the sweep."""

    options: AnySearch | AnyTraining
    _run: Path | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.options.name)

    @property
    def command(self) -> str:
        """``search`` or ``train``."""
        return "search" if isinstance(self.options, AnySearch) else "train"

    @property
    def length(self) -> int:
        """Epochs of a search, iterations of a training."""
        return self.options.search.epochs if isinstance(self.options, AnySearch) else self.options.train.total_iter

    @property
    def folder(self) -> Path:
        """Folder of the sweep."""
        return Path(self.options.path.experiments_root)

    @property
    def file(self) -> Path:
        """Its option file, with which it can be run alone."""
        return self.folder / OPTION_FILES / f"{self.name}.yml"

    @property
    def output(self) -> Path:
        """What it has printed."""
        return self.folder / OUTPUTS / f"{self.name}.txt"

    def words(self, until: int) -> list[str]:
        """Return the command that runs it up to an epoch or an iteration, or on from where it was stopped."""
        return [self.command, "-opt", str(self.file), "--auto_resume", *(["--until", str(until)] if until < self.length else [])]

    def record(self, until: int) -> tuple[Path, dict[str, Any]] | None:
        """Return the run's folder and its record of an epoch or iteration, or of where a criterion has stopped a search.

        ``None`` where it has not come so far.

        Raises:
            UserError: the runs of this name have other options, or the history is damaged.
        """
        folder = self._run = self._run or Run.create_or_resume(self.options, True).resumed
        if folder is None or not (folder / HISTORY).is_file():
            return None
        if self.command == "search" and until == self.length and not (folder / GENOTYPE).is_file():
            return None
        key = "epoch" if self.command == "search" else "iteration"
        records = (record for record in read_history(folder) if record.get(key) == until or "stopped" in record)
        return next(((folder, record) for record in records), None)


def start(words: Sequence[str], output: Path, environment: Mapping[str, str], held: int) -> subprocess.Popen[bytes]:
    """Start a command whose output is added to a file, and which saves itself and ends when this process does.

    It holds the open file ``held``, too. In a session of its own it does not get a terminal's Ctrl-C, which is handed on once.
    """
    with output.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words], stdin=subprocess.PIPE, stdout=stream, stderr=stream,
            env={**environment, "PYTHONIOENCODING": "utf-8"}, start_new_session=True,
            pass_fds=() if sys.platform == "win32" else (held,),
        )  # fmt: skip


class Workers(Protocol):
    """What runs trials, several at a time."""

    count: int
    """Trials that run at a time."""

    def submit(self, trial: Trial, until: int) -> Future[int]:
        """Run a trial up to an epoch or an iteration; the result is the exit code of its command."""

    def stop(self) -> None:
        """Ask all that run to save themselves and to end."""


class Processes:
    """Workers on this machine: a process for each trial, with its share of the cores and a GPU of its own where there are any.

    Args:
        jobs: processes at a time; by default one for each GPU, or for each core where there is none.
        trials: that there are; no more processes are needed.
        held: open file that the processes hold open, too.
    """

    def __init__(self, jobs: int | None, trials: int, held: int) -> None:
        devices = [str(number) for number in range(torch.cuda.device_count())]
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            devices = visible.split(",")[: len(devices)]
        self.count, self._running = min(jobs or len(devices) or cores(), trials), set[subprocess.Popen[bytes]]()
        self._held = held
        self._pool, self._stopping, self._places = ThreadPoolExecutor(self.count), False, SimpleQueue[str]()
        for number in range(self.count):
            self._places.put(devices[number % len(devices)] if devices else "")

    def submit(self, trial: Trial, until: int) -> Future[int]:
        """Run a trial; of no more than ``count`` at a time."""
        return self._pool.submit(self._run, trial, until)

    def _run(self, trial: Trial, until: int) -> int:
        environment = {"OMP_NUM_THREADS": str(max(1, cores() // self.count)), **os.environ}
        if device := self._places.get():
            environment["CUDA_VISIBLE_DEVICES"] = device
        process = start(trial.words(until), trial.output, environment, self._held)
        with process:
            self._running.add(process)
            if self._stopping:
                process.terminate()
            code = process.wait()
        self._running.discard(process)
        self._places.put(device)
        return code

    def stop(self) -> None:
        """Send SIGTERM to all."""
        self._stopping = True
        for process in list(self._running):
            process.terminate()


@contextmanager
def open_sweep(folder: Path) -> Iterator[int]:
    """Make the folder of a sweep and lock it, until the last process that holds the lock has ended; give the open file.

    Raises:
        UserError: another sweep runs there, or trials of one that was killed are not done with saving.
    """
    for part in (OPTION_FILES, OUTPUTS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as stream:
        try:
            lock(stream)
        except BlockingIOError as error:
            raise UserError(
                f"another sweep or make runs in {folder}, or runs of one that has ended still save themselves. Wait."
            ) from error
        yield stream.fileno()


def run_trials(
    trials: Sequence[Trial], until: int, each: float, workers: Workers, view: SweepView, stop: GracefulShutdown
) -> dict[str, str]:
    """Run trials up to an epoch or an iteration, as many at a time as there are workers, and those no more that have come so far.

    A signal stops them, and so does an error here; each saves itself. The same call goes on. ``each`` is a trial's work, for
    the view.

    Returns:
        Name -> message of those that failed, or whose run cannot go on.

    Raises:
        UserError: none of the runs can go on.
    """
    begun = {trial.name: _begun(trial, until) for trial in trials}
    left = [trial for trial in trials if begun[trial.name] is None]
    failed = {name: message for name, message in begun.items() if message}
    if failed and len(failed) == len(trials):
        raise UserError(f"{failed[trials[0].name]} With --force_yml name=... a sweep begins anew.")
    view.begin(len(trials), len(trials) - len(left) - len(failed), each)
    for trial in trials:
        if trial.name in failed:
            view.end(trial, failed[trial.name])
    running: dict[Future[int], tuple[Trial, int]] = {}
    stopping = False
    try:
        while running or left:
            if stop() and not stopping:
                left, stopping = [], True
                workers.stop()
                view.say("stopping: trials save themselves")
            while left and len(running) < workers.count:
                trial = left.pop(0)
                write_text(trial.file, dump_with_plugins(trial.options, trial.file.parent))
                printed = trial.output.stat().st_size if trial.output.exists() else 0
                running[workers.submit(trial, until)] = trial, printed
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            view.look([trial for trial, _ in running.values()])
            for future in [future for future in running if future in done]:
                trial, printed = running.pop(future)
                message = _outcome(trial, until, future, printed)
                if message and stopping:
                    continue
                if message:
                    failed[trial.name] = message
                view.end(trial, message)
    except BaseException:  # the disk is full, or a second Ctrl-C
        workers.stop()
        raise
    return failed


def _begun(trial: Trial, until: int) -> str | None:
    """Return why a trial cannot go on; nothing where it has come so far, ``None`` where it has not."""
    try:
        return "" if trial.record(until) else None
    except UserError as error:
        return str(error)


def _outcome(trial: Trial, until: int, future: Future[int], before: int) -> str:
    """Return why a trial that has ended has not come to where it should; nothing where it has.

    ``before`` is the size in bytes of what it had printed before.
    """
    try:
        code = future.result()
        if (message := _begun(trial, until)) is not None:
            return message
    except Exception as error:  # of Ray: each of its errors, and what a task raises, has a type of its own
        return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    printed = trial.output.read_bytes()[before:].decode(errors="replace").strip() if trial.output.exists() else ""
    # A command prints its error last, in lines of which the first begins with its name.
    _, *errors = re.split(rf"^{trial.command}: ", printed, flags=re.MULTILINE)
    last = errors[-1] if errors else printed.rpartition("\n")[2]
    return " ".join(last.split()) or f"it ended with exit code {code} and printed nothing"


class SweepView:
    """Progress of many trials: a line for each that ends, and on a terminal a bar for all and one for each that runs.

    Args:
        console: where to print.
        work: of all trials, in the unit of :meth:`begin`.
    """

    ROWS = 12
    """Trials shown at a time."""

    def __init__(self, console: Console, work: float) -> None:
        self.console, self.work, self.left, self.since = console, work, work, 0.0
        columns = TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}", markup=False)
        self._bars = Progress(*columns, console=console, disable=not console.is_interactive, auto_refresh=False, transient=True)
        self._all = self._bars.add_task("all", total=work, text="")
        self._rows: dict[str, tuple[Any, float]] = {}  # bar and first share
        self._running = 0.0
        self._start = time.monotonic()

    def __enter__(self) -> SweepView:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=not self.console.is_terminal, markup=False, highlight=False)

    def begin(self, count: int, done: int, each: float) -> None:
        """Begin a round of so many trials, of which some were done before; each is so much ``work``."""
        self.count, self.done, self.each = count, done, each
        self.left -= done * each
        if done:
            self.say(f"{done} of {count} were done before")

    @property
    def time_left(self) -> str:
        """Time left for all, by what this process has seen done: trials that have ended, on a terminal parts of others, too."""
        since, left = self.since + self._running, self.left - self._running
        return duration((time.monotonic() - self._start) / since * max(left, 0.0) if since else None)

    def look(self, trials: Collection[Trial]) -> None:
        """Show how far the trials are, by the last lines that they have printed."""
        if self._bars.disable:
            return
        running, self._running = list(trials)[: self.ROWS], 0.0
        for trial in running:
            share, text = progress(trial.output)
            if trial.name not in self._rows:
                self._rows[trial.name] = self._bars.add_task(trial.name, total=1.0), share
            bar, first = self._rows[trial.name]
            self._bars.update(bar, completed=share, text=text)
            self._running += share - first
        for name in set(self._rows) - {trial.name for trial in running}:
            self._bars.remove_task(self._rows.pop(name)[0])
        text = f"{self.done} of {self.count}, time left {self.time_left}"
        self._bars.update(self._all, completed=self.work - self.left + self._running, text=text)
        self._bars.refresh()

    def end(self, trial: Trial, message: str) -> None:
        """Report a trial that has ended, with a message if it has failed."""
        self.done, self.since, self.left = self.done + 1, self.since + self.each, self.left - self.each
        outcome = f"failed: {message.rstrip('.')}" if message else "is done"
        self.say(f"{self.done} of {self.count}: {trial.name} {outcome}; time left {self.time_left}")


def progress(output: Path) -> tuple[float, str]:
    """Return which share of a run is done, by the last line of its output that tells, 0..1, and how that line begins."""
    with suppress(OSError), output.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4000))
        matches = list(_DONE.finditer(stream.read().decode(errors="replace")))
        if matches:
            done, total, step, steps = (float((text or "0").replace(",", "")) for text in matches[-1].groups())
            return ((done - 1 + step / steps) if steps else done) / max(total, 1), matches[-1][0]
    return 0.0, ""
