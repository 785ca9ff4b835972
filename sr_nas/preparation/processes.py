"""One function over many items, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import cv2

from sr_nas.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Give ``function(item)`` for every item, in their order, each as soon as it and those before it are done.

    Args:
        function: a function of a module, or a ``functools.partial`` of one, since it is pickled; so are items and results.
        items: what to call it with.
        workers: processes; 1 computes in this one. Only about twice as many results wait in memory.

    Raises:
        UserError: a process was killed, mostly for lack of memory. What the function raises is raised here.
    """
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    # Spawned, not forked: threads of OpenCV and of the progress bar do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), context, _prepare)
    try:
        rest, waiting = iter(items), deque[Future[Result]]()
        for item in islice(rest, 2 * workers):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
            yield result
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} worker processes was ended from outside, mostly for lack of memory. Run this again with fewer "
            "(--workers); what is done is kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """A terminal sends Ctrl-C to workers too, which end what they are writing; and one core each is theirs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Where the parent is killed nobody tells its workers, which would wait for work for good."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # workers have one
    parent.join()
    os._exit(1)
