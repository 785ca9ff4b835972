"""Atomic writes, file locks, the cache folder and glibc's allocator. Imports nothing heavy: the command line needs it first."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

if sys.platform != "win32":
    import fcntl

ABANDONED = 24 * 3600
"""Seconds after its last change when an unfinished file is taken for abandoned by its process."""
_MARK = "-unfinished-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty temporary file in the same folder; if the block ends well, it is flushed to disk and renamed to ``path``.

    A kill at any moment leaves the old file or the new one, never half of one.
    """
    # Part of the name is enough: a full one with the mark might be longer than file systems allow.
    temporary = path.with_name(f".{path.stem[:16]}{_MARK}{uuid.uuid4().hex[:12]}{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, all or nothing; bytes of a file name that are not UTF-8 as ``\\udc..``, which JSON reads back."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file, all or nothing."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sweep(folder: Path, age: float = 0) -> None:
    """Remove temporary files of :func:`replacing` that a killed process left, unchanged for ``age`` seconds.

    Where other processes write to the folder, ``age`` is :data:`ABANDONED`.
    """
    for leftover in folder.glob(f".*{_MARK}*"):
        # Another process may finish or sweep the same file, or it may belong to another user.
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= age:
                leftover.unlink()


def lock(stream: TextIO) -> None:
    """Lock an open file until it is closed or the process ends; a BlockingIOError if another holds it. Nothing on Windows."""
    if sys.platform != "win32":
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def cache_folder(kind: str) -> Path:
    """Return (and create) the folder for one kind of cached results, which can be deleted at any time.

    It lies in ``$SR_NAS_CACHE`` where that is set, else in ``$XDG_CACHE_HOME/sr_nas`` or ``~/.cache/sr_nas``.
    """
    root = os.environ.get("SR_NAS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sr_nas")
    folder = Path(root, kind)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in the process for the next tensor; return whether it does.

    By default glibc gets each large tensor from the system and returns it at once, and the system clears its pages again: this
    may take most of the time of a pass on a CPU. Other allocators, and settings of glibc in the environment, are left alone.
    """
    configured = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if configured or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    # 1 GiB is above any usual tensor; older versions of glibc accept no more than 32 MiB.
    return any(mallopt(mmap_threshold, size) for size in (2**30, 2**25)) and bool(mallopt(trim_threshold, 2**31 - 1))
