"""How many training patches a second one reader delivers, and in how much memory: every way of ours, beside basicsr's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import Dataset

from sr_nas.bridge.basicsr_import import import_basicsr
from sr_nas.bridge.basicsr_pairs import BasicsrPairs
from sr_nas.data.patches import PatchDataset
from sr_nas.data.sources.folder import folder
from sr_nas.data.sources.lmdb import lmdb_pairs
from sr_nas.data.streams import Stream
from sr_nas.data.synthetic import photo_like
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_rgb, write_image
from sr_nas.images.resize import downscale, modcrop
from sr_nas.jobs.side_by_side import quartiles, wait_for
from sr_nas.preparation.lmdb_writer import write_lmdb


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        images: how many; of the user's own, the first ones.
        size: width and height of synthetic images.
        scale: HR pixels per LR pixel and side.
        gt_size: height and width of the HR patch.
        batch_size: patches per batch.
        workers: 0 reads in the process itself, 1 in a worker.
        rounds: how often every loader is measured, in turns.
        seconds: how long each time, at least.
        device: where batches go; on CUDA the way there counts.
    """

    images: int
    size: tuple[int, int]
    scale: int
    gt_size: int
    batch_size: int
    workers: int
    rounds: int
    seconds: float
    device: str = "cpu"


@dataclass(frozen=True)
class Loader:
    """One row: what opens it, in a process of its own, and how many of the images it reads."""

    name: str
    open: Callable[[], Dataset[Any]]
    images: int


def measure(plan: Plan, place: Path, data: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every loader on the same PNG files, in turns.

    Each loader has a process of its own, which waits while the others are measured. The first pass over the images is not timed;
    it fills the caches. Decoding loaders keep nothing in memory, as with a set larger than their budget. One reads half of the
    images from the cache: its memory beside that of all tells whether memory grows with the set.

    Args:
        plan: what is measured.
        place: an empty folder for the files: HR and LR as PNG and as LMDB, and the pixel cache.
        data: folder of the user's images; ``None`` makes synthetic ones.
        say: is told what happens.

    Returns:
        JSON-ready. Of each loader: ``patches_per_s``, the median over the rounds; ``ratio`` to ``reference``, the median of the
        rounds' own; ``peak_mb`` of the process that reads, 10^6 bytes, first pass included; ``None`` where the system has no
        ``/proc``.

    Raises:
        UserError: the images cannot be read or are smaller than a patch, or too few.
    """
    _write_images(plan, place, data, say)
    loaders = _loaders(plan, place)
    try:
        import_basicsr()
    except UserError as error:
        say(f"no rows of basicsr to compare with: {error}")
        reference = loaders[0].name
    else:
        for name, suffix, backend in (("basicsr folder", "", "disk"), ("basicsr lmdb", ".lmdb", "lmdb")):
            opening = partial(BasicsrPairs, *_places(place, suffix), plan.scale, plan.gt_size, backend)
            loaders.append(Loader(name, opening, plan.images))
        reference = "basicsr folder"
    with _served(loaders, plan) as pipes:
        for pipe in pipes:
            _ask(pipe)
        rates: list[list[float]] = [[] for _ in loaders]
        peaks: list[int | None] = [None for _ in loaders]
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            for index, pipe in enumerate(pipes):
                rate, peaks[index] = _ask(pipe)
                rates[index].append(rate)
    base = rates[[loader.name for loader in loaders].index(reference)]
    rows = {
        loader.name: {
            "images": loader.images,
            "patches_per_s": median(own),
            "spread": quartiles(own),
            "ratio": median(rate / other for rate, other in zip(own, base, strict=True)),
            "ratio_spread": quartiles([rate / other for rate, other in zip(own, base, strict=True)]),
            "peak_mb": None if peak is None else peak / 1e6,
        }
        for loader, own, peak in zip(loaders, rates, peaks, strict=True)
    }
    return {"reference": reference, "loaders": rows, "workers": plan.workers, "batch_size": plan.batch_size, "scale": plan.scale}


def _loaders(plan: Plan, place: Path) -> list[Loader]:
    def row(name: str, suffix: str, cache: bool, images: int) -> Loader:
        # A cache of its own: each decodes its images once.
        return Loader(name, partial(_open, *_places(place, suffix), str(place / name) if cache else False, plan), images)

    return [
        row("folder", "", False, plan.images),
        row("folder, cache", "", True, plan.images),
        row("folder, cache, half", "", True, plan.images // 2),
        row("lmdb", ".lmdb", False, plan.images),
        row("lmdb, cache", ".lmdb", True, plan.images),
    ]


def _places(place: Path, suffix: str) -> tuple[Path, Path]:
    return place / f"hr{suffix}", place / f"lr{suffix}"


def _open(hr: Path, lr: Path, cache: bool | str, plan: Plan) -> Dataset[Any]:
    if hr.suffix == ".lmdb":
        pairs = lmdb_pairs(str(hr), str(lr), cache, scale=plan.scale)
    else:
        pairs = folder([str(hr)], [str(lr)], cache=cache, scale=plan.scale)
    return PatchDataset(pairs, plan.gt_size, memory_budget=0)


def _write_images(plan: Plan, place: Path, data: Path | None, say: Callable[[str], None]) -> None:
    files = list_images(data)[: plan.images] if data else []
    if data and len(files) < plan.images:
        raise UserError(f"{data} has {len(files)} images, fewer than --images {plan.images}.")
    say(f"writing {plan.images} {'images of ' + str(data) if data else 'synthetic images'} as PNG and LMDB to {place}")
    width, height = plan.size
    for kind in ("hr", "lr"):
        (place / kind).mkdir()
    for number in range(plan.images):
        hr = modcrop(read_rgb(files[number]) if data else photo_like(height, width, number), plan.scale)
        write_image(place / "hr" / f"{number:04}.png", hr)
        write_image(place / "lr" / f"{number:04}.png", downscale(hr, plan.scale))
    for kind in ("hr", "lr"):
        write_lmdb(place / kind, place / f"{kind}.lmdb", compression=1, workers=1)


@contextmanager
def _served(loaders: Sequence[Loader], plan: Plan) -> Iterator[list[Connection]]:
    """Start a process for each loader; they end when the block does."""
    # Spawned, not forked: each starts with nothing of this process in its memory.
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for loader in loaders:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, loader, plan))
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def _ask(pipe: Connection) -> Any:
    pipe.send(None)
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise RuntimeError("the process of a loader has ended; the reason stands above") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(pipe: Connection, loader: Loader, plan: Plan) -> None:
    """Answer the first word after the first pass, each later one by (patches a second, peak memory so far)."""
    torch.set_num_threads(1)
    # Ctrl-C is for the process that asks: it closes the pipe, and that ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers start as they do in a training, not as this process was started.
    multiprocessing.set_start_method(None, force=True)
    try:
        pipe.recv()
        stream = Stream(loader.open(), range(loader.images), plan.batch_size, 0, plan.workers)
        for _ in range(stream.batches_per_pass):
            stream.next()
        rate, peak = 0.0, _peak(plan)
        while True:
            # Ends the worker: one that waits for its next round would read ahead at the others' cost.
            stream.load_state_dict(stream.state_dict())
            pipe.send((rate, peak))
            pipe.recv()
            rate = _round(stream, plan)
            peak = max(filter(None, (peak, _peak(plan))), default=None)
    except (EOFError, BrokenPipeError):
        return
    except UserError as error:
        pipe.send(error)


def _round(stream: Stream, plan: Plan) -> float:
    # Start the worker, and empty what it has read ahead by then.
    for _ in range(1 + 2 * plan.workers):
        _arrived(stream, plan)
    start, batches, seconds = time.perf_counter(), 0, 0.0
    while seconds < plan.seconds or batches < 2:
        _arrived(stream, plan)
        batches += 1
        seconds = time.perf_counter() - start
    return batches * plan.batch_size / seconds


def _arrived(stream: Stream, plan: Plan) -> None:
    device = torch.device(plan.device)
    for tensor in stream.next():
        tensor.to(device)
    wait_for(device)


def _peak(plan: Plan) -> int | None:
    """Return the peak resident memory in bytes of the process that reads; ``None`` where the system does not tell."""
    (reader,) = [child.pid for child in multiprocessing.active_children()] if plan.workers else [os.getpid()]
    try:
        lines = Path(f"/proc/{reader}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
