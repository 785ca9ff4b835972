"""Writing so that a kill at any moment leaves the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

ABANDONED = 24 * 3600
"""Seconds after which an unfinished file is nobody's any more."""
_MARK = "-unfinished-"
_STEM = 16
"""So many letters of a name stand in that of its temporary file, which is to be no longer than names may be."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends well it is flushed to disk and takes the name ``path``."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:_STEM]}{_MARK}", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented, all or nothing."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sweep(folder: Path, age: float = 0) -> None:
    """Remove the temporary files that a kill in the middle of :func:`replacing` has left in a folder.

    Args:
        folder: where to look.
        age: seconds since they were last written to; more than 0 in a folder that other processes write to.
    """
    for leftover in folder.glob(f".*{_MARK}*"):
        # Another process may finish or sweep the same file, or it may belong to another user.
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= age:
                leftover.unlink()


def lock(stream: TextIO) -> None:
    """Hold an open file until it is closed or the process ends, however it ends. Windows has no such lock.

    Raises:
        BlockingIOError: another process holds it.
    """
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# MERGED sr_nas.runs.files: Where results that are costly to compute and cheap to keep lie between runs.


def cache_folder(kind: str) -> Path:
    """Return (and create) the folder for one kind of cached result.

    It lies in ``$SR_NAS_CACHE`` where that is set, else in ``$XDG_CACHE_HOME/sr_nas`` or ``~/.cache/sr_nas``. Deleting
    it loses nothing but time.
    """
    root = os.environ.get("SR_NAS_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sr_nas"
    folder = base / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder
