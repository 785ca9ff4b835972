from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

# The handler of a run that is stuck notes the signal, and the run goes on waiting.
PROGRAM = """
import os, signal, threading, time
from sr_nas.runs.distributed import ending_after_a_signal
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGCHLD, lambda *_: None)
with ending_after_a_signal(0.2, "first"):
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.4)
assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == 1
with ending_after_a_signal(0.2, "second"):
    print("ready", flush=True)
    time.sleep({wait})
"""


@pytest.mark.parametrize(("number", "wait", "code"), [(signal.SIGTERM, 60, 1), (signal.SIGCHLD, 1, 0)])
def test_a_run_that_does_not_stop_is_ended_and_no_other(number: signal.Signals, wait: int, code: int) -> None:
    program = [sys.executable, "-c", PROGRAM.format(wait=wait)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == ("second\n" if code else "")
    assert process.returncode == code
