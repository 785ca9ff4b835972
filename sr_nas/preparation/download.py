"""A file over HTTP, resumed where it broke off, and under its name only once it is whole and verified."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError
from sr_nas.preparation.addresses import Archive
from sr_nas.runs.files import write_json

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
