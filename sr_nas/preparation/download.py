"""Published archives: downloaded with resume, verified by their hashes, and unpacked into the project's layout."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests

from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES
from sr_nas.preparation.catalog import SETS, Archive, Part
from sr_nas.preparation.outputs import atomic_dir, check_room

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received so far and, where it is known, the total."""
Member = tuple[PurePosixPath, int, Callable[[], Any]]
"""A regular file in an archive: its path there, its size in bytes, and a function that opens it."""

ARCHIVES = "archives"
"""Folder of the downloaded archives, below the folder of all data sets."""
ATTEMPTS, TIMEOUT, BLOCK = 5, 30.0, 1 << 18
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
"""Status codes that may change a moment later (RFC 9110, 15.5 and 15.6)."""
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

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


def fetch_archive(archive: Archive, folder: Path, progress: Progress, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Return the path of the verified archive in ``folder``: put there by hand, or downloaded now.

    A broken download is continued from ``NAME.part``, by this call and by later ones.

    Args:
        archive: what to download.
        folder: made where it is missing.
        progress: called after every block.
        sleep: waits so many seconds between attempts.

    Raises:
        UserError: it cannot be downloaded, or is not the published file; the text says how to get it by hand.
    """
    file = folder / archive.name
    if file.is_file():
        if not pooch.hashes.hash_matches(str(file), archive.checksum):
            raise UserError(f"{file} is not the published archive: its hash is not {archive.checksum}. Remove it.")
        return file
    folder.mkdir(parents=True, exist_ok=True)
    downloader = partial(_download, archive, folder / f"{archive.name}.part", progress, sleep)
    try:
        return Path(pooch.retrieve(archive.url, archive.checksum, archive.name, folder, downloader=downloader))
    except (requests.RequestException, ValueError) as error:  # pooch raises ValueError where the hash differs
        reason = f"no connection, or it broke off ({error})" if isinstance(error, LOST) else error
        size = "" if archive.size is None else f" ({archive.size / 1e6:,.0f} MB)"
        raise UserError(
            f"cannot fetch {archive.name}: {reason}\n"
            f"  address:   {archive.url}{size}\n"
            f"  put it at: {file}\n"
            "Download it by other means, such as a browser, put it there and run this again; or run this again later: a broken "
            "download is continued."
        ) from error


def _download(
    archive: Archive, incomplete: Path, progress: Progress, sleep: Callable[[float], None], url: str, output: str, _: Any
) -> None:
    """Download ``url`` to ``output`` as pooch asks of a downloader, with several attempts that each continue the last one."""
    failures, furthest = 0, _size(incomplete)
    while True:
        try:
            _continue_download(archive, incomplete, progress)
            break
        except requests.RequestException as error:
            status = None if error.response is None else error.response.status_code
            # Only attempts that got no further count: a weak line may break any number of times.
            failures = 0 if _size(incomplete) > furthest else failures + 1
            furthest = max(furthest, _size(incomplete))
            if failures >= ATTEMPTS or not (status is None or status in TRANSIENT):
                raise
            sleep(min(2.0**failures, 30.0))
    os.replace(incomplete, output)


def _continue_download(archive: Archive, incomplete: Path, progress: Progress) -> None:
    """Append to ``incomplete`` what is missing. The hash of the whole shows later whether old and new bytes belong together."""
    start = _size(incomplete)
    if start and start == archive.size:
        return
    headers = {"User-Agent": "sr_nas", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # nothing follows: the file is whole, or of another file
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise ValueError("the server sends a web page instead of the file, perhaps of a login or a proxy.")
        resumed = response.status_code == requests.codes.partial_content
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None and archive.size not in (None, total):
            raise ValueError(f"the file there has {total:,} bytes, the published archive {archive.size:,}.")
        check_room(incomplete.parent, (total or start) - start, archive.name)
        with incomplete.open("ab" if resumed else "wb") as stream:
            for block in response.iter_content(BLOCK):
                stream.write(block)
                progress(stream.tell(), total)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


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
                    (PurePosixPath(info.name), info.size, partial(tar.extractfile, info))
                    for info in tar.getmembers()
                    if info.isreg()
                ]
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file} is no sound archive: {error or type(error).__name__}. Remove it to fetch it again.") from error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
