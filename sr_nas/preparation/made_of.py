"""A folder's note of what its files were made of, so that those of other images are never taken for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError
from sr_nas.runs.files import write_json

NOTE = ".made_of.json"
"""Hidden, since basicsr takes every other file of a folder for an image."""


def note_of(made: Mapping[str, Any], sources: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Return a note: from what and how the folder is made, and size and time of the source files of each name."""
    stamps = {name: [[file.stat().st_size, file.stat().st_mtime_ns] for file in files] for name, files in sources.items()}
    return {"made": dict(made), "sources": stamps}


def read_note(folder: Path) -> dict[str, Any] | None:
    """Return the note of a folder; ``None`` where it has none.

    Raises:
        UserError: it cannot be read.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return {"made": note["made"], "sources": dict(note["sources"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / NOTE} cannot be read: {error}. Choose another output folder.") from error


def changed(folder: Path, note: Mapping[str, Any]) -> set[str]:
    """Return the names whose source files are other ones than when the folder was filled.

    Raises:
        UserError: the folder was made of other folders or in another way, or holds files that are not from here.
    """
    before = read_note(folder)
    if before is None:
        if folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir()):
            raise UserError(f"{folder} holds files that are not from here. Choose another output folder.")
        return set()
    if before["made"] != note["made"]:
        raise UserError(f"{folder} was made with {before['made']}, not with {note['made']}. Choose another output folder.")
    return {name for name, stamps in note["sources"].items() if before["sources"].get(name, stamps) != stamps}


def renew(folder: Path, note: Mapping[str, Any], outdated: set[str], pattern: str) -> None:
    """Remove the images of outdated names, and write the note.

    In this order, so that a stop in between leaves no image that the note does not fit.

    Args:
        folder: with the images; made where it is missing.
        note: see :func:`note_of`.
        outdated: see :func:`changed`.
        pattern: of the images' file names; its first group is the name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir() if outdated else ():
        parsed = re.fullmatch(pattern, file.name)
        if parsed and parsed[1] in outdated:
            file.unlink()
    before = read_note(folder) or {"sources": {}}
    write_json(folder / NOTE, {**note, "sources": {**before["sources"], **note["sources"]}})
