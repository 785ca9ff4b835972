"""A published set, from its address to the layout that option files and ``evaluate`` expect (datasets/README.md)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES
from sr_nas.preparation.addresses import SETS, Archive, Part
from sr_nas.preparation.archives import Member, extract, is_hidden, opened
from sr_nas.preparation.download import Report, obtain
from sr_nas.preparation.placing import Placed, move_in, unfinished

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
