"""The verdicts of campaigns are right: a campaign that sees nothing would pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.campaigns.machinery import HANG, KILLED, MESSAGE, OK, STOPPED, TRACEBACK, Campaign, command, fork


def test_exit_codes_and_output_of_commands() -> None:
    assert command("complexity", "--help")[:2] == (OK, 0)
    verdict, code, text, *_ = command("complexity", "--model", "nothere")
    assert (verdict, code) == (MESSAGE, 1) and "nothere" in text
    assert command("train")[:2] == (MESSAGE, 2)
    assert command("prepare_data", "lr", "nothere", "-o", "out").verdict == MESSAGE


def _fault() -> None:
    raise ValueError("a fault")


def _memory() -> None:
    bytearray(1 << 30)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "exception": (_fault, TRACEBACK),
    "memory": (_memory, TRACEBACK),
    "exit code": (lambda: 3, TRACEBACK),
    "abort": (os.abort, KILLED),
    "hang": (lambda: time.sleep(60), HANG),
}


@pytest.mark.parametrize(("function", "verdict"), BAD.values(), ids=BAD)
def test_bad_ends(function: Callable[[], object], verdict: str) -> None:
    counts = Campaign("bad ends", seed=1, size=1)
    assert counts.call(function, seconds=0.5, memory=1 << 29).verdict == verdict
    assert counts.outcomes == {verdict: 1}
    with pytest.raises(AssertionError, match=f"seed 1(.|\n)*{verdict}"):
        counts.check()


def test_a_signal_stops_the_child_and_all_that_it_started(tmp_path: Path) -> None:
    def start() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "pid").write_text(str(child.pid))
        time.sleep(60)

    assert fork(start, kill=(signal.SIGKILL, 0.5)).verdict == STOPPED
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int((tmp_path / "pid").read_text()))
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    assert fork(lambda: 0, kill=(signal.SIGKILL, 5)).verdict == OK
