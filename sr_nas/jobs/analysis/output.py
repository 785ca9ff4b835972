"""Where an analysis writes: a folder of its own, beside what is there."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError
from sr_nas.runs.files import write_json, write_text
from sr_nas.runs.folder import new_run

ROOT = Path("analyses")


def check_output(given: Path | None) -> None:
    """Raise UserError where a folder that the user has named holds something already."""
    if given is not None and given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise UserError(f"-o {given}: there is something already, and nothing is written over. Name a new folder.")


def open_output(given: Path | None, name: str) -> Path:
    """Make and return the folder that the user has named, or ``analyses/<name>``, numbered where that exists.

    Raises:
        UserError: as :func:`check_output`.
    """
    check_output(given)
    if given is None:
        return new_run(ROOT, name)
    given.mkdir(parents=True, exist_ok=True)
    return given


def write_csv(path: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; what is not known stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([["" if known(value) is None else value for value in row] for row in rows])
    write_text(path, text.getvalue())


def write_numbers(path: Path, content: Any) -> None:
    """Write JSON, which knows no NaN: what is not known is null."""
    write_json(path, known(content))


def known(value: Any) -> Any:
    """Return a value with every NaN in it replaced by ``None``."""
    if isinstance(value, dict):
        return {key: known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [known(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def spread(mean: float, std: float, form: str, std_form: str | None = None) -> str:
    """Write ``mean ± std``, or the mean alone where there is one trial, or a dash where nothing is known."""
    if math.isnan(mean):
        return "-"
    return f"{mean:{form}}" if math.isnan(std) else f"{mean:{form}} ± {std:{std_form or form}}"
