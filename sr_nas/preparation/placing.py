"""Folders that appear whole: filled under another name, then moved; what is there already is never replaced."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sr_nas.errors import UserError
from sr_nas.images.files import IMAGE_SUFFIXES, read_image
from sr_nas.runs.files import lock


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
