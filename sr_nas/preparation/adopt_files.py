"""The files of a published set, such as CIFAR's, from a copy of its archive or of what was unpacked from it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sr_nas.errors import UserError, listing
from sr_nas.preparation.catalog import Part
from sr_nas.preparation.download import Member, extract, opened, wrong_files
from sr_nas.preparation.outputs import Placed, move_in, unfinished


def adopt_files(source: Path, part: Part, root: Path) -> Placed:
    """Copy a part's files to where they belong; the source stays as it is.

    Args:
        source: a folder, or a zip or tar archive, that holds them side by side, at its top or deeper.
        part: one with files.
        root: the folder of all data sets.

    Raises:
        UserError: a file is missing or is not the published one, or another run is writing there.
    """
    target = root / part.folder
    if not source.exists():
        raise UserError(f"--from: {source} does not exist.")
    with unfinished(target) as folder:
        if source.is_dir():
            place = _place(source, part)
            for name, _ in part.files:
                shutil.copyfile(place / name, folder / name)
        else:
            with opened(source, "Take another copy of it.") as members:
                for member in _members(source, members, part):
                    extract(member, folder / Path(member.path).name)
        if wrong := wrong_files(folder, part):
            raise UserError(f"{source} holds other files than were published: the MD5 of {listing(wrong)} differs.")
        return move_in(folder, target)


def _place(source: Path, part: Part) -> Path:
    names = {name for name, _ in part.files}
    for place, folders, files in os.walk(source):
        folders.sort()
        if names <= set(files):
            return Path(place)
    raise _nowhere(source, part)


def _members(source: Path, members: list[Member], part: Part) -> list[Member]:
    together: dict[str, list[Member]] = {}
    for member in members:
        folder, _, name = member.path.rpartition("/")
        if name in dict(part.files):
            together.setdefault(folder, []).append(member)
    found = next((group for group in together.values() if len(group) == len(part.files)), None)
    if found is None:
        raise _nowhere(source, part)
    return found


def _nowhere(source: Path, part: Part) -> UserError:
    return UserError(f"{source} has no folder with all of {listing([name for name, _ in part.files])}.")
