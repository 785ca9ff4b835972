"""Atomic writes, what a model's file is by its content, file locks, the cache folder, settings of the process.

Imports nothing heavy: the command line needs it first.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TextIO

from sr_nas.errors import UserError, absent, listing

if sys.platform != "win32":
    import fcntl

ABANDONED = 24 * 3600
"""Seconds after its last change when an unfinished file is taken for abandoned by its process."""
_MARK = "-unfinished-"
Kind = Literal["safetensors", "torch", "pt2", "onnx"]
KINDS = ".safetensors, .pth, .onnx and .pt2"
# What is taken for a model by mistake, and how it begins.
_OTHERS = {
    "a Git LFS pointer, not the file that it stands for; fetch that with: git lfs pull": (b"version https://git-lfs",),
    "a pointer of git-annex, not the file that it stands for; fetch that with: git annex get": (b"/annex/objects/",),
    "an HTML or XML page, such as a server sends in place of a file; download it anew": (b"<",),
    "JSON": (b"{", b"["),
    "an image": (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM"),
    "compressed; unpack it first": (b"\x1f\x8b", b"\xfd7zXZ", b"(\xb5/\xfd", b"7z\xbc\xaf", b"Rar!"),
    "a model of another framework (Keras, GGUF, ncnn or NumPy)": (b"\x89HDF", b"GGUF", b"7767517", b"\x93NUMPY"),
}
# PyTorch compresses nothing, and what others have compressed does not get much smaller; a bomb of zeros shrinks a thousandfold.
_MOST_INFLATION = 10


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an OSError of the block name ``path``: one of an open file names none, and that of ``temporary`` means nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give an empty temporary file in the same folder; if the block ends well, it is flushed to disk and renamed to ``path``.

    A kill or a full disk at any moment leaves the old file or the new one, never half of one.

    Raises:
        OSError: of the block, or because nothing can be written there; it names ``path``.
    """
    # Part of the name is enough: a full one with the mark might be longer than file systems allow.
    temporary = path.with_name(f".{path.stem[:16]}{_MARK}{uuid.uuid4().hex[:12]}{path.suffix}")
    with naming(path, temporary):
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            with temporary.open("r+b") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # a disk that has become read-only, or is gone
                temporary.unlink(missing_ok=True)


def bytes_of(*files: str) -> int | None:
    """Return the size of files together, each counted once; ``None`` where one is no file, such as an image in an LMDB."""
    try:
        return sum(os.stat(file).st_size for file in set(files))
    except OSError:
        return None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, all or nothing; bytes of a file name that are not UTF-8 as ``\\udc..``, which JSON reads back."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file, all or nothing."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def kind_of(path: Path, expected: str = f"Models are read from {KINDS} files.") -> Kind:
    """Return which kind of model a file is, by its content: names are often wrong, and missing for what was downloaded.

    Raises:
        UserError: it is missing or cannot be read, empty, cut off, or none of these; the message says what it is instead.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}; the file of a model is expected.")
        with path.open("rb") as stream:
            head, size = stream.read(512), path.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"{path} {absent(path)}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if head.startswith(b"PK\3\4"):
        return _kind_of_archive(path, size)
    if head[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and head[6:8] == b"\0\0"):
        if int.from_bytes(head[:8], "little") > size - 8:
            raise UserError(f"{path} is cut off or damaged: its safetensors header is longer than the file.")
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] <= b"\5":  # pickle, in which PyTorch wrote before 1.6
        return "torch"
    # Protocol buffers: field 1, the version of the format, then any other field of a model.
    if head[:1] == b"\x08" and len(head) > 2 and head[2] & 7 in (0, 2):
        return "onnx"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    text = f"text, which begins with {start[:30].decode(errors='replace')!r}" if start.isascii() and b"\0" not in start else ""
    what = next((what for what, begins in _OTHERS.items() if start.startswith(begins)), text) if start else "empty"
    raise UserError(f"{path} is {what or 'damaged, or of a kind that is not known'}. {expected}")


def _kind_of_archive(path: Path, size: int) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MOST_INFLATION * size:
                raise UserError(f"{path} is refused: unpacked it would be far larger than PyTorch's own files ever are.")
            # PyTorch itself checks no sums, and would take changed weights for good; it can be told to write none.
            changed = archive.testzip() if any(entry.CRC for entry in entries) else None
    except UserError:
        raise
    except Exception as error:  # zipfile raises whatever it meets in a damaged file
        raise UserError(f"{path} is cut off or damaged: it begins as a PyTorch file does, but does not end so.") from error
    if changed is not None:
        raise UserError(f"{path} is damaged: its part {changed} does not have the check sum that it was written with.")
    names = {entry.filename.partition("/")[2] for entry in entries}
    if names & {"archive_format", "archive_version"} or any("exported_program" in entry.filename for entry in entries):
        return "pt2"
    if "constants.pkl" in names:
        raise UserError(f"{path} is a TorchScript program, which is not read; save the state_dict() of its module instead.")
    if "data.pkl" not in names:
        raise UserError(f"{path} is a zip archive of {listing([entry.filename for entry in entries], 3)}, and no model.")
    return "torch"


def sweep(folder: Path, age: float = 0) -> None:
    """Remove temporary files of :func:`replacing` that a killed process left, unchanged for ``age`` seconds.

    Where other processes write to the folder, ``age`` is :data:`ABANDONED`.
    """
    for leftover in folder.glob(f".*{_MARK}*"):
        # Another process may finish or sweep the same file, or it may belong to another user.
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= age:
                leftover.unlink()


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty but for what killed processes have left unfinished."""
    return all(_MARK in entry.name for entry in folder.iterdir())


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


def wait_briefly() -> None:
    """Let OpenMP's threads (GNU's, PyTorch's on Linux) sleep after a short wait for one another; before PyTorch is imported.

    By default they wait busily 30 times as long, and beside other work so long for a thread that is not running that little else
    is done (docs/performance.md). Settings in the environment are left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


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
