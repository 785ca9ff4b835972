"""Callables timed in turns, their peak memory in processes of their own, and work that goes on beside them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils import benchmark

from sr_nas.runs.files import keep_freed_memory

Step = Callable[[], object]


def in_turns(steps: Mapping[str, Step], rounds: int, clock: str, threads: int) -> dict[str, dict[str, Any]]:
    """Time several callables in turns, every other round backwards, after one untimed run of each.

    Returns:
        For each its median ``seconds`` and their ``iqr``, and ``ratio``, the median over the rounds of its time to that of the
        first callable in the same round.
    """
    which: Any = {"timer": time.process_time} if clock == "cpu" else {}
    timers = {
        name: benchmark.Timer("step()", globals={"step": step}, num_threads=threads, **which) for name, step in steps.items()
    }
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
        for name in list(steps)[:: -1 if number % 2 else 1]:
            seconds[name].append(timers[name].timeit(1).raw_times[0])
    base = next(iter(seconds.values()))
    return {
        name: {
            "seconds": median(times),
            "iqr": float(np.subtract(*np.percentile(times, (75, 25)))),
            "ratio": median(mine / other for mine, other in zip(times, base, strict=True)),
        }
        for name, times in seconds.items()
    }


def peak_apart(threads: int, make_step: Callable[..., Step], *arguments: Any) -> int | None:
    """Bytes that two runs of ``make_step(*arguments)`` add to a fresh process (to the GPU, on CUDA) at most."""
    if _on_gpu(arguments):  # PyTorch counts there itself
        torch.cuda.reset_peak_memory_stats()
        return _added_memory(threads, make_step, arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_added_memory, threads, make_step, arguments).result()


def _on_gpu(arguments: tuple[Any, ...]) -> bool:
    return any(isinstance(argument, torch.device) and argument.type == "cuda" for argument in arguments)


def _added_memory(threads: int, make_step: Callable[..., Step], arguments: tuple[Any, ...]) -> int | None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    step = make_step(*arguments)
    before = torch.cuda.memory_allocated() if (on_gpu := _on_gpu(arguments)) else psutil.Process().memory_info().rss
    for _ in range(2):  # the first allocates gradients and the moments of optimizers
        step()
    after = torch.cuda.max_memory_allocated() if on_gpu else peak_resident()
    return None if after is None else after - before


def peak_resident() -> int | None:
    """Peak resident memory of this process in bytes. Not ``ru_maxrss``, which a new process inherits from its parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def busy_process() -> Iterator[int]:
    """Start a process of two threads that never rest, as if from another terminal; yield its number."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    number = pool.submit(os.getpid).result()
    try:
        pool.submit(_never_rest)
        yield number
    finally:
        os.kill(number, signal.SIGKILL)


def _never_rest() -> None:
    os.setsid()  # Linux shares processors among sessions
    torch.set_num_threads(2)
    x, weight = torch.rand(4, 32, 64, 64), torch.rand(32, 32, 3, 3)
    while multiprocessing.parent_process().is_alive():  # type: ignore[union-attr]
        nn.functional.conv2d(x, weight)
