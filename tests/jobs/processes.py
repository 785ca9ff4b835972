"""Commands as a user runs them: to their end in this process, or in one of their own, which can be killed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from sr_nas.cli import main
from sr_nas.jobs.trials import Trial
from tests.conftest import REPOSITORY

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY_SEARCH = REPOSITORY / "tests" / "jobs" / "tiny.yml"
TINY_TRAINING = REPOSITORY / "tests" / "jobs" / "tiny_train.yml"


def command(tool: str, *words: str | Path) -> list[str]:
    return [sys.executable, str(REPOSITORY / "tools" / f"{tool}.py"), *map(str, words)]


def run(tool: str, *words: str | Path, code: int = 0) -> str:
    """Run a tool to its end, in this process and on one thread; return what it printed, standard error included."""
    printed, threads = io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            found = main([tool, *map(str, words)])
    finally:
        torch.set_num_threads(threads)
    assert found == code, printed.getvalue()
    return printed.getvalue()


def interrupt(words: Sequence[str], watched: Path, lines: int, number: signal.Signals) -> int:
    """Start a process, send it a signal once the file ``watched`` has that many lines, and return its exit code."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        if watched.is_file() and watched.read_text().count("\n") >= lines:
            process.send_signal(number)
            break
        time.sleep(0.005)
    return process.wait(timeout=300)


class InThisProcess:
    """Workers of a sweep that run one trial after the other in this process."""

    count = 1

    def submit(self, trial: Trial, until: int) -> Future[int]:
        future: Future[int] = Future()
        with trial.output.open("a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            future.set_result(main(trial.words(until)))
        return future

    def stop(self) -> None:
        pass
