"""What became of a file that was to be made, and where none is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_nas.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """What became of the images that were to be made of one.

    Attributes:
        source: the image they are made of.
        written: how many were.
        kept: how many were there already.
        failure: why the others were not; ``""`` if none failed.
    """

    source: Path
    written: int = 0
    kept: int = 0
    failure: str = ""


def refuse_overlap(output: Path, sources: Sequence[Path]) -> None:
    """Refuse an output folder in which images would be written among their sources.

    Raises:
        UserError: ``output`` is one of the folders.
    """
    if any(output.resolve() == source.resolve() for source in sources):
        raise UserError(f"{output} holds the images that are read: choose another output folder.")
