"""Two processes of one job, started by a test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import multiprocessing


def run_two(work: Callable[[int, Path], None], folder: Path) -> list[int | None]:
    """Run ``work(rank, folder)`` in two processes as torchrun would start them; return their exit codes."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_run, args=(work, rank, folder)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def _run(work: Callable[[int, Path], None], rank: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    work(rank, folder)
