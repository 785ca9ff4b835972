"""Reading zip and tar archives without trusting them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import lzma
import os
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES
from sr_nas.preparation.catalog import SETS, Archive, Part
from sr_nas.preparation.outputs import Placed, move_in, unfinished
from sr_nas.runs.files import write_json

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


# MERGED sr_nas.preparation.download: A file over HTTP, resumed where it broke off, and under its name only once
# it is whole and verified.


Report = Callable[[int, int | None], None]
"""Called with the bytes there are and, where it is known, how many there will be."""

BLOCK = 1 << 20
ATTEMPTS = 5
TIMEOUT = 30.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may be another one a moment later (RFC 9110, 15.5 and 15.6)."""


class _Broken(Exception):
    """The connection ended early or was refused: worth another attempt."""


class _Refused(Exception):
    """What the server has is not what is wanted: another attempt gives the same."""


def obtain(archive: Archive, folder: Path, holds: str, report: Report, pause: Callable[[float], None] = time.sleep) -> Path:
    """Return the archive's file in ``folder``, put there by hand or fetched now.

    Fetching goes on from ``NAME.part`` where an earlier attempt left one and the server can tell that its file is still
    the same one (RFC 9110, 13.1.5 and 14.2).

    Args:
        archive: what to fetch.
        folder: made where it is missing.
        holds: what the archive is expected to hold, for the message.
        report: told about the progress.
        pause: waits so many seconds between attempts.

    Raises:
        UserError: it cannot be fetched, or what is there is not what was published. The text says where to put the file
            by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / archive.name
    if file.is_file():
        wrong = _defect(file, archive)
        if wrong:
            raise UserError(f"{file} is not the published archive: {wrong}. Remove it, or put the right one there.")
        return file
    part = folder / f"{archive.name}.part"
    failures, reason, furthest = 0, "", _length(part)
    while failures < ATTEMPTS:
        outcome = _attempt(archive, part, report)
        if outcome is None:
            os.replace(part, file)
            _notes(part).unlink(missing_ok=True)
            return file
        reason = str(outcome)
        if isinstance(outcome, _Refused):
            break
        # Only attempts that get no further are counted: a weak line may break any number of times.
        failures = 0 if _length(part) > furthest else failures + 1
        furthest = max(furthest, _length(part))
        if failures < ATTEMPTS:
            pause(min(2.0**failures, 30.0))
    raise UserError(by_hand(archive, file, holds, reason))


def by_hand(archive: Archive, file: Path, holds: str, reason: str) -> str:
    """Say how to get an archive without this program."""
    size = "" if archive.size is None else f" ({archive.size / 1e6:,.0f} MB)"
    return (
        f"cannot fetch {archive.name}: {reason}.\n"
        f"  address:   {archive.url}{size}\n"
        f"  put it at: {file}\n"
        f"  it holds:  {holds}\n"
        "Fetch it there by other means, such as a browser, and run this again: it is taken as it lies. What has been fetched "
        "so far is kept, and running this again goes on from there. A copy of another layout is taken by --from."
    )


@dataclass
class _Answer:
    """What a server's answer means for the part: where its bytes go, and how long the whole will be."""

    start: int
    total: int | None
    validator: str | None


def _attempt(archive: Archive, part: Path, report: Report) -> _Broken | _Refused | None:
    """Go on with the part; return why it is not the whole archive yet, or ``None`` if it is."""
    try:
        _fetch(archive, part, report)
    except (_Broken, _Refused) as error:
        return error
    wrong = _defect(part, archive)
    if wrong:
        _drop(part)
        return _Refused(f"what {archive.url} sends is not the published archive: {wrong}")
    with part.open("r+b") as stream:
        os.fsync(stream.fileno())
    return None


def _fetch(archive: Archive, part: Path, report: Report) -> None:
    start, validator = _resumable(archive, part)
    if archive.size is not None and start == archive.size:
        return
    request = urllib.request.Request(archive.url, headers={"User-Agent": "sr_nas", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            answer = _understand(response, start)
            _check_room(archive, answer, part)
            _receive(response, answer, archive, part, report)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing comes after the part: it is whole, or no beginning of what the server has now
            if archive.checksum and not _defect(part, archive):
                return
            _drop(part)
            raise _Broken("the server's file is shorter than what was fetched before") from error
        kind = _Broken if error.code in PASSING else _Refused
        raise kind(f"the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _no_connection(error) from error


def _understand(response: Any, asked: int) -> _Answer:
    if response.headers.get_content_type() == "text/html":
        raise _Refused("the server sends a web page instead of the file, of a login or a proxy perhaps")
    length = response.headers.get("Content-Length")
    # A weak ETag says that two files mean the same, not that their bytes are the same.
    tag = response.headers.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    if response.status != 206:
        return _Answer(0, int(length) if length else None, validator)
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    if unit != "bytes" or span.partition("-")[0] != str(asked):
        raise _Refused(f"the server was asked for the bytes from {asked} on, and sends '{unit} {rest}'")
    return _Answer(asked, int(total) if total.isdigit() else None, validator)


def _check_room(archive: Archive, answer: _Answer, part: Path) -> None:
    if archive.size is not None and answer.total is not None and answer.total != archive.size:
        raise _Refused(
            f"{archive.url} has {answer.total:,} bytes now, the published archive {archive.size:,}: "
            "a page of a login or a proxy, or a file that was changed"
        )
    free = shutil.disk_usage(part.parent).free
    if answer.total is not None and answer.total - answer.start > free:
        raise UserError(f"{archive.name} needs {answer.total - answer.start:,} bytes more, {part.parent} has {free:,} left.")


def _receive(response: Any, answer: _Answer, archive: Archive, part: Path, report: Report) -> None:
    # Before the bytes: a part without notes is never resumed unless a checksum can tell whether it fits.
    write_json(_notes(part), {"url": archive.url, "validator": answer.validator})
    with part.open("r+b" if answer.start else "wb") as stream:
        stream.seek(answer.start)
        stream.truncate()
        there = answer.start
        while block := _read(response):
            stream.write(block)
            there += len(block)
            report(there, answer.total)
    if answer.total is not None and there < answer.total:
        raise _Broken(f"the connection broke off after {there:,} of {answer.total:,} bytes")


def _read(response: Any) -> bytes:
    """Return the next bytes. Whatever fails here is the line, not the disk: TLS and routes fail as OSError."""
    try:
        return bytes(response.read(BLOCK))
    except http.client.IncompleteRead as error:
        raise _Broken("the connection broke off") from error
    except OSError as error:
        raise _no_connection(error) from error


def _no_connection(error: Exception) -> _Broken:
    return _Broken(f"no connection ({getattr(error, 'reason', None) or str(error) or type(error).__name__})")


def _resumable(archive: Archive, part: Path) -> tuple[int, str | None]:
    """Return how many bytes of the part can be gone on from, and what tells the server which file they are of."""
    there = _length(part)
    try:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        notes = {}
    validator = notes.get("validator") if notes.get("url") == archive.url else None
    too_long = archive.size is not None and there > archive.size
    if not there or too_long or not (validator or archive.checksum):
        return 0, None
    return there, validator


def _defect(file: Path, archive: Archive) -> str:
    """Say in what a file is not the archive; ``""`` if it is, as far as is known."""
    size = file.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"it has {size:,} bytes instead of {archive.size:,}"
    if archive.checksum is not None:
        kind, _, expected = archive.checksum.partition(":")
        with file.open("rb") as stream:
            found = hashlib.new(kind, usedforsecurity=False)
            while block := stream.read(BLOCK):
                found.update(block)
        if found.hexdigest() != expected:
            return f"its {kind.upper()} is {found.hexdigest()} instead of {expected}"
    return ""


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


# MERGED sr_nas.preparation.download: A published set, from its address to the layout that option files and
# ``evaluate`` expect (datasets/README.md).


ARCHIVES = "archives"
"""Folder of the fetched archives, below the folder of all data sets."""


def parts_of(names: Sequence[str], scales: Sequence[int], splits: Sequence[str]) -> list[Part]:
    """Return the parts of these sets: HR always, LR of ``scales``; of DIV2K those of ``splits``."""
    parts = [part for name in names for part in SETS[name]]
    return [part for part in parts if part.scale in (None, *scales) and part.split in (None, *splits)]


def is_there(part: Part, root: Path) -> bool:
    """Whether a part's folder holds as many images as were published, or exactly the published files.

    Files may lie one folder higher too, as people unpack them.
    """
    folder = root / part.folder
    if part.files:
        return any(not wrong_files(place, part) for place in (folder, folder.parent))
    if not folder.is_dir():
        return False
    return sum(file.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(file.name) for file in folder.iterdir()) >= part.count


def prepare(
    parts: Sequence[Part], root: Path, fetching: Callable[[Archive], Report], unpacking: Callable[[Part, int], None]
) -> Iterator[tuple[Part, Placed | None]]:
    """Make parts of published sets ready, archive by archive.

    Args:
        parts: see :func:`parts_of`.
        root: the folder of all data sets.
        fetching: gives, for an archive, what is told about its progress.
        unpacking: called for a part with the number of images unpacked so far.

    Returns:
        Each part as soon as it is done, with what was written; ``None`` where all of it was there.

    Raises:
        UserError: an archive cannot be fetched, or is not what it should be.
    """
    missing: dict[Archive, list[Part]] = {}
    for part in parts:
        if is_there(part, root):
            yield part, None
        else:
            missing.setdefault(part.archive, []).append(part)
    for archive, wanted in missing.items():
        holds = "\n             ".join(f"{part.inside}/ with {part.count} {part.holds}" for part in wanted)
        file = obtain(archive, root / ARCHIVES, holds, fetching(archive))
        for part in wanted:
            yield part, unpack(file, part, root, unpacking)


def wrong_files(folder: Path, part: Part) -> list[str]:
    """Return the names of a part's files that a folder lacks, or holds with another content than was published."""
    return [name for name, digest in part.files if not (folder / name).is_file() or md5(folder / name) != digest]


def md5(file: Path) -> str:
    """Return the MD5 of a file."""
    with file.open("rb") as stream:
        found = hashlib.md5(usedforsecurity=False)
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def unpack(file: Path, part: Part, root: Path, unpacking: Callable[[Part, int], None]) -> Placed:
    """Unpack the images or files of one part; its folder appears once all are there.

    Raises:
        UserError: the archive is damaged, holds something dangerous, or other images or files than expected.
    """
    target = root / part.folder
    with opened(file, "Remove it, so that it is fetched again.") as members, unfinished(target) as folder:
        images = [member for member in members if _belongs(member, part)]
        if len(images) != part.count:
            found = sorted({member.path.rpartition("/")[0] or "its top" for member in members if not is_hidden(member.path)})
            raise UserError(
                f"{file} holds {len(images)} {part.holds} in '{part.inside}', expected {part.count}. It has files in "
                f"{listing(found, 10) or 'no folder'}. A copy of another layout is taken by --from."
            )
        needed, free = sum(member.size for member in images), shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(f"{part.folder} needs {needed:,} bytes, {root} has {free:,} left.")
        for number, member in enumerate(images, 1):
            extract(member, folder / member.path.rpartition("/")[2])
            unpacking(part, number)
        return move_in(folder, target)


def _belongs(member: Member, part: Part) -> bool:
    folder, _, name = member.path.rpartition("/")
    if part.files:
        return folder == part.inside and name in dict(part.files)
    return folder == part.inside and not is_hidden(member.path) and Path(name).suffix.lower() in IMAGE_SUFFIXES
