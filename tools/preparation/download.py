"""Published archives: downloaded with resume, verified by their hashes, and unpacked into the project's layout."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests

from preparation.catalog import SETS, Archive, Part
from preparation.outputs import atomic_dir, check_room
from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received so far and, where it is known, the total."""
Member = tuple[PurePosixPath, int, Callable[[], Any]]
"""A regular file in an archive: its path there, its size in bytes, and a function that opens it."""

ARCHIVES = "archives"
"""Folder of the downloaded archives, below the folder of all data sets."""
RETRIES, TIMEOUT, BLOCK = 5, 30.0, 1 << 18
LARGEST = 10**9
"""Bytes that are taken of an archive whose size is not published; it has about 250 MB."""
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Status codes that may change a moment later (RFC 9110, 15.5 and 15.6)."""

pooch.get_logger().setLevel("WARNING")


def parts_of(names: Sequence[str], scales: Sequence[int], splits: Sequence[str]) -> list[Part]:
    """Return the parts of these sets: HR always, LR of ``scales``; of DIV2K those of ``splits``."""
    parts = [part for name in names for part in SETS[name]]
    return [part for part in parts if part.scale in (None, *scales) and part.split in (None, *splits)]


def is_there(part: Part, root: Path) -> bool:
    """Whether the folder of a part holds at least as many images as were published, or exactly the published files.

    Files may lie one folder higher too, as people unpack them.

    Raises:
        UserError: a file of a published name has another content.
    """
    folder = root / part.folder
    if not part.files:
        return folder.is_dir() and sum(_is_image(file.name) for file in folder.iterdir()) >= part.count
    for place in (folder, folder.parent):
        present = [(place / name, digest) for name, digest in part.files if (place / name).is_file()]
        for file, digest in present:
            if pooch.file_hash(str(file), "md5") != digest:
                raise UserError(f"{file} is not the published file: its MD5 is not {digest}. Move it away and run this again.")
        if len(present) == len(part.files):
            return True
    return False


def fetch_archive(archive: Archive, folder: Path, progress: Progress) -> Path:
    """Return the path of the verified archive in ``folder``: put there by hand, or downloaded now with several attempts.

    A broken download is continued from ``NAME.part``, by the next attempt and by later calls.

    Raises:
        UserError: it cannot be downloaded, or is not the published file; the text says how to get it by hand.
    """
    file = folder / archive.name
    if file.is_file() and not pooch.hashes.hash_matches(str(file), archive.checksum):
        raise UserError(f"{file} is not the published archive: its hash is not {archive.checksum}. Remove it.")
    urls, hashes = {archive.name: archive.url}, {archive.name: archive.checksum}
    source = pooch.create(folder, "", registry=hashes, urls=urls, retry_if_failed=RETRIES)
    try:
        downloader = partial(_resume, archive, folder / f"{archive.name}.part", progress)
        return Path(source.fetch(archive.name, downloader=downloader))
    except (requests.RequestException, ValueError, _Refused) as error:  # pooch raises ValueError where the hash differs
        size = "" if archive.size is None else f" ({archive.size / 1e6:,.0f} MB)"
        raise UserError(
            f"cannot fetch {archive.name}: {error}\n"
            f"  address:   {archive.url}{size}\n"
            f"  put it at: {file}\n"
            "Download it by other means, such as a browser, put it there and run this again; or run this again later: a broken "
            "download is continued."
        ) from error


class _Refused(Exception):
    """The server has something else than the archive, so that another attempt is useless."""


def _resume(archive: Archive, incomplete: Path, progress: Progress, url: str, output: str, _: pooch.Pooch) -> None:
    """Download ``url`` to ``output``, as pooch asks of a downloader, beginning where ``incomplete`` ends."""
    start = incomplete.stat().st_size if incomplete.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status >= 400 and status not in (416, *TRANSIENT):
            raise _Refused(f"the server answers {status} {response.reason}.")
        if response.headers.get("Content-Type", "").startswith("text/html") and status < 400:
            raise _Refused("the server sends a web page instead of the file, perhaps of a login or a proxy.")
        if status != 416:  # the range is empty: the file is whole, or of another archive
            response.raise_for_status()
            start = start if status == 206 else 0  # 206: the rest; 200: the server knows no ranges and sends all
            total = start + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            if total is not None and archive.size not in (None, total):
                raise _Refused(f"the file there has {total:,} bytes, the published archive {archive.size:,}.")
            most = archive.size or LARGEST
            check_room(incomplete.parent, (total or start) - start, archive.name)
            with incomplete.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                for block in response.iter_content(BLOCK):
                    if stream.tell() + len(block) > most:
                        stream.truncate(0)
                        raise _Refused(f"the server sends more than the {most:,} bytes that the archive may have.")
                    stream.write(block)
                    progress(stream.tell(), total)
    whole = pooch.hashes.hash_matches(str(incomplete), archive.checksum)
    os.replace(incomplete, output)
    if not whole and not start:  # else the old bytes may be at fault: pooch starts again without them
        raise _Refused(f"the file there is not the published archive: its hash is not {archive.checksum}.")


def unpack(file: Path, part: Part, root: Path) -> tuple[int, int]:
    """Unpack the images or files of one part into its folder, which appears once all are there.

    Only regular files that lie directly in ``part.inside`` are written, under their bare names: whatever paths, links or
    devices an archive holds, nothing is written elsewhere. Existing files are not replaced.

    Returns:
        Number of files written, and of those that existed.

    Raises:
        UserError: the archive is damaged or holds another number of files, the disk is too small, or another run is writing.
    """
    target, names = root / part.folder, dict(part.files)
    with _open_archive(file) as members, atomic_dir(target) as folder:
        inside = [member for member in members if member[0].parent == PurePosixPath(part.inside)]
        selected = [member for member in inside if (member[0].name in names if names else _is_image(member[0].name))]
        if len(selected) != part.count:
            folders = sorted({str(path.parent) for path, _, _ in members})
            raise UserError(
                f"{file} holds {len(selected)} {part.contents} in '{part.inside}', expected {part.count}. It has files in "
                f"{listing(folders, 10) or 'no folder'}."
            )
        check_room(folder, sum(size for _, size, _ in selected), part.folder)
        existing = {path.name for path in target.iterdir()} if target.exists() else set()
        missing = [member for member in selected if member[0].name not in existing]
        for path, size, opened in missing:
            with opened() as source, (folder / path.name).open("xb") as stream:
                shutil.copyfileobj(source, stream, BLOCK)
                if stream.tell() != size:
                    raise EOFError(f"{path} ends after {stream.tell():,} of {size:,} bytes")
    return len(missing), len(selected) - len(missing)


@contextmanager
def _open_archive(file: Path) -> Iterator[list[Member]]:
    """Yield the regular files of a zip or tar archive; what the standard library says about damage becomes a UserError."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                # Some programs on Windows write backslashes between the parts of a path.
                yield [
                    (PurePosixPath(info.filename.replace("\\", "/")), info.file_size, partial(archive.open, info))
                    for info in archive.infolist()
                    if not info.is_dir()
                ]
        else:
            with tarfile.open(file) as tar:
                yield [
                    (PurePosixPath(info.name.replace("\\", "/")), info.size, partial(tar.extractfile, info))
                    for info in tar.getmembers()
                    if info.isreg()
                ]
    except Exception as error:  # of whatever type, as damage has it
        # EINVAL: it states a place that no file has. Another number: the disk is at fault.
        if isinstance(error, UserError) or getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise UserError(f"{file} is no sound archive: {error or type(error).__name__}. Remove it to fetch it again.") from error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
