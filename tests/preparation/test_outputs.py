"""Folders that appear whole, and one function over many items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from preparation.outputs import atomic_dir, in_processes

from sr_nas.errors import UserError
from tests.conftest import REPOSITORY

TOOLS = REPOSITORY / "tools"

# What workers import with their functions: nothing heavy.


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fill(target: Path, **files: Any) -> None:
    with atomic_dir(target) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        fill(tmp_path / "a/out", one="1", two=2)
    assert list((tmp_path / "a").iterdir()) == []
    fill(tmp_path / "a/out", one="1", two="2")
    assert contents(tmp_path / "a") == {"out/one": b"1", "out/two": b"2"}


def test_what_is_in_a_folder_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "out", one="1")
    fill(tmp_path / "out", one="another", two="2")
    assert contents(tmp_path) == {"out/one": b"1", "out/two": b"2"}
    with pytest.raises(UserError, match="is a file"):
        fill(tmp_path / "out/one")


def test_a_killed_process_leaves_a_hidden_folder_that_the_next_run_removes(tmp_path: Path) -> None:
    script = f"""if True:
        import os, signal
        from pathlib import Path
        from preparation.outputs import atomic_dir
        with atomic_dir(Path({str(tmp_path / "out")!r})) as folder:
            (folder / "half").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", script], check=False, cwd=TOOLS)
    (name,) = contents(tmp_path)
    assert name.startswith(".out-unfinished-")
    fill(tmp_path / "out", one="1")
    assert contents(tmp_path) == {"out/one": b"1"}


@pytest.mark.long
def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with atomic_dir(tmp_path / "out") as folder:
        (folder / "one").write_text("1")
        other = context.Process(target=fill, args=(tmp_path / "out",), kwargs={"one": "other", "two": "2"})
        other.start()
        other.join()
    assert contents(tmp_path) == {"out/one": b"other", "out/two": b"2"}


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02 * (number % 3))
    return number * number, os.getpid()


def fail(number: int) -> int:
    if number == 1:
        raise UserError("one is no good")
    return number


def kill_worker(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_results_keep_their_order_and_come_from_processes() -> None:
    done = list(in_processes(square, range(12), 2))
    assert [value for value, _ in done] == [number**2 for number in range(12)]
    assert os.getpid() not in {process for _, process in done}
    assert {process for _, process in in_processes(square, range(3), 1)} == {os.getpid()}


@pytest.mark.long
def test_an_error_of_a_worker_arrives_as_it_was_raised() -> None:
    results = in_processes(fail, range(4), 2)
    assert next(results) == 0
    with pytest.raises(UserError, match="one is no good"):
        next(results)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_explained() -> None:
    with pytest.raises(UserError, match="--workers"):
        list(in_processes(kill_worker, range(3), 2))


@pytest.mark.long
def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = """if True:
        import multiprocessing, time
        from preparation.outputs import in_processes
        results = in_processes(time.sleep, [0, 0, 60, 60], 2)
        next(results)
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=TOOLS) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
        # The workers hold this pipe open too: it ends where they do.
        parent.communicate(timeout=20)
    assert len(workers) == 2
