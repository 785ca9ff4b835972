"""BasicSR's lists of images: one a line, its name and perhaps its size, ``0001_s001.png (480,480,3)``."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from sr_nas.errors import UserError

_LINE = re.compile(r"(\S.*?\.\w+)(?: \((\d+),(\d+),\d+\)(?: \d+)?)?")


def read_meta_info(file: Path) -> dict[str, tuple[int, int] | None]:
    """Return name without folder and extension -> height and width, or ``None`` where the line does not tell.

    Raises:
        UserError: the file cannot be read, a line is of another form, or a name is there twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list {file} cannot be read: {error}.") from error
    found: dict[str, tuple[int, int] | None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = _LINE.fullmatch(line.strip())
        if parsed is None:
            raise UserError(f"{file}, line {number}: '{line}' is not of the form '0001_s001.png (480,480,3)'.")
        name = PurePosixPath(parsed[1]).stem
        if name in found:
            raise UserError(f"{file}, line {number}: '{name}' is listed twice.")
        found[name] = (int(parsed[2]), int(parsed[3])) if parsed[2] else None
    return found
