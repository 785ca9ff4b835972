"""Types for options that name a file or folder of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from sr_nas.errors import nearest


def describe_missing(path: Path, what: str) -> str:
    """Say that ``path`` does not exist, which part of it is first to be missing, what lies there instead, and what fetches it.

    Args:
        path: a path that does not exist.
        what: ``"file"`` or ``"folder"``.
    """
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    where = "" if missing == path else f": there is no '{missing}'"
    siblings = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    fetched = " tools/prepare_data.py fetches data sets to datasets/." if path.parts[:1] == ("datasets",) else ""
    return f"{what} '{path}' does not exist{where}{nearest(missing.name, siblings)}{fetched}"


def _wants_check(info: ValidationInfo) -> bool:
    return (info.context or {}).get("check_files") is not False


def _folder(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.is_dir():
        raise ValueError(f"'{path}' is a file, but a folder is expected" if path.exists() else describe_missing(path, "folder"))
    return str(path)


def _file(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.is_file():
        raise ValueError(f"'{path}' is a folder, but a file is expected" if path.exists() else describe_missing(path, "file"))
    return str(path)


def _either(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.exists():
        raise ValueError(describe_missing(path, "file or folder"))
    return str(path)


ExistingFolder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
"""Path of a folder, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""

ExistingFile = Annotated[str, Field(min_length=1), AfterValidator(_file)]
"""Path of a file, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""

ExistingPath = Annotated[str, Field(min_length=1), AfterValidator(_either)]
"""Path of a file or a folder, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""
