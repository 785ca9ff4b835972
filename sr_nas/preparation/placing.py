"""Folders that appear whole: filled under another name, then moved; what is there already is never replaced."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sr_nas.errors import UserError


@dataclass
class Placed:
    """What became of the files meant for a folder: names of the new ones, the equal ones, and the different ones, all kept."""

    written: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


@contextlib.contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``, which is removed at the end with whatever is left in it.

    What a kill leaves there is cleared away the next time.
    """
    folder = target.parent / f".{target.name}-unfinished"
    _remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _remove(folder)


def move_in(filled: Path, target: Path) -> Placed:
    """Move the files of a folder into ``target``, at once where that does not exist; existing files stay as they are."""
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
        raise UserError(f"{target} is a file; a folder of images is to be written there. Move it away.")
    for file in files:
        there = target / file.name
        if not there.exists():
            os.rename(file, there)
            placed.written.append(file.name)
        else:
            (placed.same if filecmp.cmp(file, there, shallow=False) else placed.different).append(file.name)
    return placed


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
