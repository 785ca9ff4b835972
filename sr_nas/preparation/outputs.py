"""What became of a file that was to be made, and where none is made."""

from __future__ import annotations

import contextlib
import filecmp
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from sr_nas.errors import UserError
from sr_nas.images.files import IMAGE_SUFFIXES, read_image
from sr_nas.runs.files import lock, write_json


@dataclass(frozen=True)
class Outcome:
    """What became of the images that were to be made of one.

    Attributes:
        source: the image they are made of.
        written: how many were.
        kept: how many were there already.
        failure: why the others were not; ``""`` if none failed.
    """

    source: Path
    written: int = 0
    kept: int = 0
    failure: str = ""


def refuse_overlap(output: Path, sources: Sequence[Path]) -> None:
    """Refuse an output folder in which images would be written among their sources.

    Raises:
        UserError: ``output`` is one of the folders.
    """
    if any(output.resolve() == source.resolve() for source in sources):
        raise UserError(f"{output} holds the images that are read: choose another output folder.")


# MERGED sr_nas.preparation.outputs: Folders that appear whole: filled under another name, then moved; what is
# there already is never replaced.


@dataclass
class Placed:
    """What became of the files meant for a folder: names of the new ones, the equal ones, and the different ones, all kept."""

    written: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keep other runs from writing to ``target`` meanwhile; a file beside it is locked, and gone afterwards.

    Raises:
        UserError: another run is writing to it.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.parent / f".{target.name}-lock"
    with file.open("a") as stream:
        try:
            lock(stream)
            # The run that held it before may have removed it after it was opened here.
            held = os.path.samestat(os.fstat(stream.fileno()), file.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise UserError(f"another run is writing to {target}. Wait until it is done, or end it, and run this again.")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                file.unlink()


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``, which is removed at the end with whatever is left in it.

    What a kill leaves there is cleared away the next time.

    Raises:
        UserError: another run is writing to ``target``.
    """
    folder = target.parent / f".{target.name}-unfinished"
    with alone(target):
        _remove(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            _remove(folder)


def move_in(filled: Path, target: Path) -> Placed:
    """Move the files of a folder into ``target``, at once where that does not exist; existing files stay as they are.

    Images of one name are one image, whatever their formats: names without extension tell HR and LR images apart. Other files
    are one if their whole names are.
    """
    files = sorted(filled.iterdir())
    for file in files:
        with file.open("r+b") as stream:
            os.fsync(stream.fileno())
    placed = Placed()
    if not target.exists():
        placed.written = [file.name for file in files]
        os.rename(filled, target)
        return placed
    if not target.is_dir():
        raise UserError(f"{target} is a file; a folder is to be written there. Move it away.")
    there = {_key(file): file for file in target.iterdir()}
    for file in files:
        if (old := there.get(_key(file))) is None:
            os.rename(file, target / file.name)
            placed.written.append(file.name)
        else:
            (placed.same if _equal(file, old) else placed.different).append(old.name)
    return placed


def _key(file: Path) -> tuple[bool, str]:
    is_image = file.suffix.lower() in IMAGE_SUFFIXES
    return is_image, file.stem if is_image else file.name


def _equal(one: Path, other: Path) -> bool:
    if filecmp.cmp(one, other, shallow=False):
        return True
    try:
        return one.suffix != other.suffix and np.array_equal(read_image(one), read_image(other))
    except UserError:
        return False


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


# MERGED sr_nas.preparation.outputs: A folder's note of what its files were made of, so that those of other
# images are never taken for them.


NOTE = ".made_of.json"
"""Hidden, since basicsr takes every other file of a folder for an image."""


def note_of(made: Mapping[str, Any], sources: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Return a note: from what and how the folder is made, and size and time of the source files of each name."""
    stamps = {name: [[file.stat().st_size, file.stat().st_mtime_ns] for file in files] for name, files in sources.items()}
    return {"made": dict(made), "sources": stamps}


def read_note(folder: Path) -> dict[str, Any] | None:
    """Return the note of a folder; ``None`` where it has none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return {"made": note["made"], "sources": dict(note["sources"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / NOTE} cannot be read: {error}. Choose another output folder.") from error


def changed(folder: Path, note: Mapping[str, Any]) -> set[str]:
    """Return the names whose source files are other ones than when the folder was filled.

    Raises:
        UserError: the folder was made of other folders or in another way, or holds files that are not from here.
    """
    before = read_note(folder)
    if before is None:
        if folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise UserError(f"{folder} holds files that are not from here. Choose another output folder.")
        return set()
    if before["made"] != note["made"]:
        raise UserError(f"{folder} was made with {before['made']}, not with {note['made']}. Choose another output folder.")
    return {name for name, stamps in note["sources"].items() if before["sources"].get(name, stamps) != stamps}


def renew(folder: Path, note: Mapping[str, Any], outdated: set[str], pattern: str) -> None:
    """Remove the images of outdated names, and write the note.

    In this order, so that a stop in between leaves no image that the note does not fit.

    Args:
        folder: with the images; made where it is missing.
        note: see :func:`note_of`.
        outdated: see :func:`changed`.
        pattern: of the images' file names; its first group is the name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir() if outdated else ():
        parsed = re.fullmatch(pattern, file.name)
        if parsed and parsed[1] in outdated:
            file.unlink()
    before = read_note(folder) or {"sources": {}}
    write_json(folder / NOTE, {**note, "sources": {**before["sources"], **note["sources"]}})


# MERGED sr_nas.preparation.outputs: One function over many items, on all cores.


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
