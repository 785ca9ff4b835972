"""What became of a file that was to be made, and whether one that lies there can stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_nas.errors import UserError
from sr_nas.images.size import whole_png_size


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


def stays(target: Path, sources: Sequence[Path], height: int, width: int) -> bool:
    """Whether a PNG file is whole, of this size, and not older than what it is made of.

    Raises:
        UserError: it is whole and not older, but of another size: it was made of something else, and is not replaced.
    """
    size = whole_png_size(target)
    if size is None or target.stat().st_mtime_ns < max(source.stat().st_mtime_ns for source in sources):
        return False
    if size != (height, width):
        raise UserError(
            f"{target} exists with {size[1]}x{size[0]} pixels, where {width}x{height} belong. Remove it or choose another folder."
        )
    return True


def refuse_overlap(output: Path, sources: Sequence[Path]) -> None:
    """Refuse an output folder in which images would be written among their sources.

    Raises:
        UserError: ``output`` is one of the folders.
    """
    if any(output.resolve() == source.resolve() for source in sources):
        raise UserError(f"{output} holds the images that are read: choose another output folder.")
