"""Output folders that appear whole, and one function over many items in worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import psutil

from sr_nas.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that is renamed to ``target`` when the block ends without an exception.

    Where ``target`` exists, the files whose names it lacks are moved into it; nothing in it is replaced. After an exception
    nothing stays; what a killed process leaves is removed by the next call on the same machine.

    Raises:
        UserError: the target is a file.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file; a folder is to be written there. Move it away.")
    target = target.absolute()
    # Host and process in the name: a run at the same time has a folder of its own, and it is known which one is abandoned.
    prefix = f".{target.name}-unfinished-{platform.node()}-"
    for leftover in target.parent.glob(f"{prefix}*"):
        process = leftover.name.removeprefix(prefix)
        if process == str(os.getpid()) or not psutil.pid_exists(int(process)):
            shutil.rmtree(leftover)
    folder = target.parent / f"{prefix}{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
        files = list(folder.iterdir())
        for file in files:
            with file.open("r+b") as stream:
                os.fsync(stream.fileno())
        if not target.exists():
            folder.rename(target)
        else:
            for file in files:
                if not (target / file.name).exists():
                    file.rename(target / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raise a :class:`UserError` if the disk of ``folder`` has fewer than ``needed`` bytes left for ``what``."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{what} needs {needed:,} bytes, the disk of {folder} has {free:,} left.")


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order, computed in ``workers`` processes (1: in this one).

    Function (of a module, or a ``functools.partial`` of one), items and results are pickled. What it raises is raised here.

    Raises:
        UserError: a worker was killed, mostly for lack of memory.
    """
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    # Spawned, not forked: threads of OpenCV and of the progress bar do not survive a fork.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(items)), context, _start_worker) as pool:
            rest = iter(items)
            # Not all at once: results that are consumed slowly would fill the memory.
            waiting = deque(pool.submit(function, item) for item in islice(rest, 2 * workers))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} worker processes was killed, mostly for lack of memory. Run this again with fewer (--workers); "
            "finished images are kept."
        ) from error


def _start_worker() -> None:
    """Ignore Ctrl-C, so that a worker finishes its file; use one OpenCV thread; exit when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    # A worker of a killed parent would wait for work forever: it holds the pipe that it reads from open itself.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
