"""Reading zip and tar archives without trusting them."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from sr_nas.errors import UserError

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
"""What the standard library raises over archives that are damaged, cut off, encrypted or of an unknown method."""


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Attributes:
        path: its path in the archive, ``/`` between the parts.
        size: bytes it unpacks to.
        open: opens it for reading.
    """

    path: str
    size: int
    open: Callable[[], IO[bytes]]


@contextlib.contextmanager
def opened(file: Path, remedy: str) -> Iterator[list[Member]]:
    """Give the regular files of a zip or tar archive, in its order.

    Args:
        file: the archive.
        remedy: a sentence that says what to do about a damaged one.

    Raises:
        UserError: no such archive, a damaged one, or one that holds a link, a device, the same path twice, or a path that
            is absolute or leads out of its folder. It is then refused as a whole: what holds one of these was not made to be
            unpacked. Damage that shows on reading is reported in the same way.
    """
    try:
        if tarfile.is_tarfile(file):
            with tarfile.open(file) as tar:
                yield _checked(file, list(_tar_members(file, tar)))
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                yield _checked(file, list(_zip_members(file, packed)))
        else:
            raise UserError(f"{file} is neither a zip nor a tar archive, or it is cut off.")
    except _DAMAGED as error:
        raise UserError(f"{file} is damaged: {str(error) or type(error).__name__}. {remedy}") from error


def extract(member: Member, target: Path) -> None:
    """Write one member to a file.

    Raises:
        EOFError: the archive ends before the member does.
    """
    with member.open() as source, target.open("xb") as stream:
        shutil.copyfileobj(source, stream, 1 << 20)
        if stream.tell() != member.size:
            raise EOFError(f"{member.path} ends after {stream.tell():,} of {member.size:,} bytes")


def is_hidden(path: str) -> bool:
    """Whether a path is what macOS adds to archives, or otherwise hidden."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _zip_members(file: Path, packed: zipfile.ZipFile) -> Iterator[Member]:
    for info in packed.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{file} holds '{info.filename}', which is a link or a device: it is not unpacked.")
        # Some programs on Windows write backslashes between the parts.
        name = info.filename.replace("\\", "/")
        path = _inside(file, name)
        if not name.endswith("/"):
            yield Member(path, info.file_size, partial(packed.open, info))


def _tar_members(file: Path, tar: tarfile.TarFile) -> Iterator[Member]:
    members = tar.getmembers()
    # The standard library takes a damaged header in the middle for the end.
    stream = tar.fileobj
    assert stream is not None  # it is open
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"after {len(members)} members comes neither another one nor the end")
    for info in members:
        path = _inside(file, info.name)
        if info.isdir():
            continue
        if not info.isreg():
            raise UserError(f"{file} holds '{info.name}', which is a link or a device: it is not unpacked.")
        yield Member(path, info.size, partial(_open_tar, tar, info))


def _open_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(info)
    assert stream is not None  # that is for what is no regular file
    return stream


def _inside(file: Path, name: str) -> str:
    """Return the name without ``.`` and empty parts, or refuse the archive."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or parts[0].endswith(":"):
        raise UserError(f"{file} holds '{name}', which leads out of its folder: it is not unpacked.")
    return "/".join(part for part in parts if part not in ("", "."))


def _checked(file: Path, members: list[Member]) -> list[Member]:
    seen: set[str] = set()
    for member in members:
        # Case is folded, since some file systems do it.
        if member.path.lower() in seen:
            raise UserError(f"{file} holds '{member.path}' twice: it is not unpacked.")
        seen.add(member.path.lower())
    return members
