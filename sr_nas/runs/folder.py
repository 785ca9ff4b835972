"""Run folders: ``experiments/<name>``, never written over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError
from sr_nas.runs.files import replacing

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
OPTIONS = "options.yml"
NETWORK_BLOCK = "network_g.yml"
"""What a search writes beside its genotype: the option block of the network it found."""


def new_run(root: Path, name: str) -> Path:
    """Create and return ``root/name``, or ``root/name_2``, ``root/name_3`` ... where that exists already."""
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def resumable_runs(root: Path, name: str) -> list[Path]:
    """Return those of ``root/name``, ``root/name_2`` ... that hold a checkpoint, the newest first."""
    pattern = re.compile(re.escape(name) + r"(?:_(\d+))?")
    found = [
        (int(match[1] or 1), path)
        for path in root.glob(f"{name}*")
        if (path / CHECKPOINT).is_file() and (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def append_history(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to the history."""
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's history, in order; a half-written last line, left by a kill, is not one.

    Raises:
        UserError: there is no history, or a line inside it is damaged.
    """
    file = folder / HISTORY
    if not file.is_file():
        raise UserError(f"{folder} holds no {HISTORY}: is it the folder of a run?")
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}.") from error


def cut_history(folder: Path, last: int, key: str = "step") -> None:
    """Drop the records after step ``last``: a run that resumes there makes them again."""
    if (folder / HISTORY).is_file():
        kept = [record for record in read_history(folder) if record[key] <= last]
        with replacing(folder / HISTORY) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
