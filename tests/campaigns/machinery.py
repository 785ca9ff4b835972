"""Campaigns: very many small commands, each in a forked child with limits and a verdict.

A forked child has PyTorch and the package imported already, so that a small command takes a fraction of a second. The parent must
run no computation of PyTorch but comparisons of tensors: threads do not survive a fork. An example, whole::

    pytestmark = pytest.mark.campaign

    def test_cut_models(campaign: Campaign, model: Path, tmp_path: Path) -> None:
        whole, random = model.read_bytes(), campaign.random
        for number in range(campaign.count(100)):
            (tmp_path / "cut.safetensors").write_bytes(whole[: random.randrange(len(whole))])
            outcome = campaign.run("complexity", "--model", tmp_path / "cut.safetensors")
            assert outcome.verdict == MESSAGE, outcome.text

``pytest -m campaign`` runs all campaigns in minutes; ``--campaign_size 20`` makes them twenty times as large, and
``--campaign_seed`` repeats one. The last lines of pytest's output are a table of what was counted.
"""

from __future__ import annotations

import faulthandler
import importlib
import itertools
import os
import pkgutil
import random
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import prepare_data
import psutil

import sr_nas
from sr_nas.cli import main

OK, MESSAGE, STOPPED = "ok", "message", "stopped"
"""Good verdicts: exit code 0; exit code 1 or 2 with a message; ended by the signal that the campaign sent."""
TRACEBACK, HANG, KILLED = "traceback", "hang", "killed"
"""Bad ones: a traceback in the output, or another exit code; longer than the time limit; ended by a signal of its own."""


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Python's audit events of changes to a folder, beside opening for writing."""
LIBRARIES = ("torch._dynamo", "torchvision", "preparation.jobs")
"""Modules beside the package's that commands import, seconds each."""


class Outcome(NamedTuple):
    """How a child ended: its verdict, exit code (negative: the signal), output, seconds, and most bytes of memory."""

    verdict: str
    code: int
    text: str
    seconds: float
    memory: int


def import_all() -> None:
    """Import in this process what commands need, so that no child has to."""
    for name in (*LIBRARIES, *(module.name for module in pkgutil.walk_packages(sr_nas.__path__, "sr_nas."))):
        importlib.import_module(name)


def call(*words: str | Path) -> int:
    """Run a command of ``sr-nas``, or ``prepare_data``, in this process; return its exit code."""
    name, *rest = map(str, words)
    return prepare_data.main(rest) if name == "prepare_data" else main([name, *rest])


def command(*words: str | Path, **limits: Any) -> Outcome:
    """Run a command as :func:`call` does, in a forked child; ``limits`` are arguments of :func:`fork`."""
    return fork(partial(call, *words), **limits)


def before_writes(folder: Path, action: Callable[[int], None]) -> None:
    """Call ``action`` with 1, 2, ... before this process opens for writing, makes, renames or removes anything in a folder.

    For children only: it can't be taken back. What libraries in C write to a file that is there already is not seen.
    """
    numbers, inside = itertools.count(1), os.fsencode(folder) + b"/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            path = arguments[0]
            if isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsencode(path)).startswith(inside):
                action(next(numbers))

    sys.addaudithook(hook)


def fork(
    function: Callable[[], Any],
    seconds: float = 120,
    memory: int | None = 4 << 30,
    folder: Path | None = None,
    kill: tuple[signal.Signals, float] | None = None,
) -> Outcome:
    """Call a function in a forked child, and return how that ended.

    Args:
        function: without arguments; returns an exit code or None.
        seconds: time limit, from the start or, after ``kill``, from the signal.
        memory: bytes of address space that the child may take beside what it inherits; None for no limit, as LMDB needs.
        folder: working folder of the child.
        kill: a signal to send, and the seconds after which it is sent.
    """
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        sys.stdout.flush()  # else the child has it too
        child = os.fork()
        if child == 0:
            _be_child(function, output, memory, folder)
        watch = os.pidfd_open(child)
        try:
            if sent := kill is not None and not _ends(watch, kill[1]):
                os.kill(child, kill[0])
            hangs = not _ends(watch, seconds)
        finally:  # of pytest's Ctrl-C too
            os.close(watch)
            _end_group(child)
            _, status, usage = os.wait4(child, 0)
        took, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="backslashreplace")
    if hangs:
        verdict = HANG
    elif "Traceback (most recent call last)" in text:
        verdict = TRACEBACK
    elif sent and code in (-kill[0], 128 + kill[0]):
        verdict = STOPPED
    elif code < 0:
        verdict = KILLED
    else:
        verdict = {0: OK, 1: MESSAGE, 2: MESSAGE}.get(code, TRACEBACK)
    return Outcome(verdict, code, text, took, usage.ru_maxrss * 1024)


def _ends(watch: int, seconds: float) -> bool:
    return bool(select.select([watch], [], [], seconds)[0])


def _end_group(child: int) -> None:
    """Kill a child that still runs, and all that it has started; the child leads a group of processes of its own."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it ended before it could become the leader
        os.kill(child, signal.SIGKILL)


def _be_child(function: Callable[[], Any], output: IO[bytes], memory: int | None, folder: Path | None) -> None:
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdin, sys.stdout, sys.stderr = map(partial(os.fdopen, closefd=False), range(3), "rww")
        faulthandler.enable()  # on the new standard error
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if memory is not None:
            limit = psutil.Process().memory_info().vms + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        os.chdir(folder or ".")
        code = function() or 0
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Campaign:
    """One test's counts: given by the fixture ``campaign``, shown as a row of the table at the end.

    Attributes:
        seed: of the campaign, printed with the counts.
        size: factor on every count, 1 for minutes.
        random: generator of this campaign, made from the seed and the test's name.
        outcomes: verdict, or another name of something counted -> how many.
        cases: text of every child whose verdict was bad, at most 20.
    """

    def __init__(self, name: str, seed: int, size: float) -> None:
        self.name, self.seed, self.size = name, seed, size
        self.random = random.Random(f"{seed} {name}")
        self.outcomes: Counter[str] = Counter()
        self.cases: list[str] = []
        self._start = time.monotonic()

    def count(self, number: int) -> int:
        """Return how many of something to do, of which there are ``number`` in a campaign of minutes."""
        return max(1, round(number * self.size))

    def run(self, *words: str | Path, **limits: Any) -> Outcome:
        """Run a command as :func:`command` does, and count its verdict."""
        return self.counted(command(*words, **limits), " ".join(map(str, words)))

    def call(self, function: Callable[[], Any], **limits: Any) -> Outcome:
        """Call a function in a child as :func:`fork` does, and count its verdict."""
        return self.counted(fork(function, **limits), str(function))

    def counted(self, outcome: Outcome, what: str) -> Outcome:
        """Count an outcome; note a bad one with what was run."""
        self.outcomes[outcome.verdict] += 1
        if outcome.verdict in (TRACEBACK, HANG, KILLED) and len(self.cases) < 20:
            self.cases.append(f"{what}\n{outcome.verdict}, exit code {outcome.code}\n{outcome.text[-3000:]}")
        return outcome

    def check(self) -> None:
        """Fail where a verdict was bad; called by the fixture when the test has ended."""
        assert not self.cases, f"seed {self.seed}, size {self.size:g}\n\n" + "\n\n".join(self.cases)

    def row(self) -> tuple[str, str, str, str, str]:
        """Return name, seed, size, counts and minutes, as the table shows them."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        return self.name, str(self.seed), f"{self.size:g}", counts, f"{(time.monotonic() - self._start) / 60:.1f}"
