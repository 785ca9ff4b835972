"""One function over many items."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sr_nas.errors import UserError
from sr_nas.preparation.outputs import in_processes


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3))
    return number * number, os.getpid()


def fail(number: int) -> int:
    if number == 1:
        raise UserError("one is no good")
    return number


def end(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_keep_their_order_and_come_from_processes() -> None:
    done = list(in_processes(square, range(12), 2))
    assert [value for value, _ in done] == [number**2 for number in range(12)]
    assert os.getpid() not in {process for _, process in done}
    assert {process for _, process in in_processes(square, range(3), 1)} == {os.getpid()}


def test_an_error_of_a_worker_arrives_as_it_was_raised() -> None:
    results = in_processes(fail, range(4), 2)
    assert next(results) == 0
    with pytest.raises(UserError, match="one is no good"):
        next(results)


def test_a_worker_that_is_killed_is_explained() -> None:
    with pytest.raises(UserError, match="--workers"):
        list(in_processes(end, range(3), 2))


def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = """if True:
        import multiprocessing, time
        from sr_nas.preparation.outputs import in_processes
        results = in_processes(time.sleep, [0, 0, 60, 60], 2)
        next(results)
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
        # The workers hold this pipe open too: it ends where they do.
        parent.communicate(timeout=20)
    assert len(workers) == 2
