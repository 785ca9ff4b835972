"""Decoded images on disk, as ``.npy`` files that are mapped into memory: a patch reads only the rows it lies on.

An entry is named after its source file, and after that file's size and modification time: pixels of a file that has changed
since are never returned, and are deleted when new ones are written. Processes share what the system keeps of the files.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from sr_nas.data.pairs import Image
from sr_nas.errors import UserError
from sr_nas.runs.files import ABANDONED, cache_folder, replacing, sweep

CacheOption = bool | Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Option: whether decoded images are cached on disk; a path is the folder of the cache."""
Source = tuple[Path, str]
"""An image file and ``""``; or the ``data.mdb`` of an LMDB and the key of an image in it."""
_ADVICE = "Free space, set SR_NAS_CACHE or cache: FOLDER to a folder on another disk, or decode each time (cache: false)."


def open_cache(option: bool | str = True) -> Path:
    """Return the folder of the cache, made where it is missing; a UserError if it cannot be made."""
    try:
        folder = cache_folder("pixels") if isinstance(option, bool) else Path(option)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"pixels cannot be kept in the cache: {error}. {_ADVICE}") from error
    return folder


@dataclass(frozen=True)
class CachedImages:
    """Reads images through the cache; can be pickled for worker processes if ``read`` can.

    Attributes:
        folder: see :func:`open_cache`.
        sources: where each image comes from.
        variant: what is made of a source, such as ``"hr"`` or ``"x2"``; a part of file names.
        read: index -> uint8 [H, W, 3]; called where the cache has no entry, or a damaged one.
        mapped: return a view of the file instead of a copy in memory.
    """

    folder: Path
    sources: Sequence[Source]
    variant: str
    read: Callable[[int], Image]
    mapped: bool = True

    def __call__(self, index: int) -> Image:
        """Return an image, read-only where it is mapped; a UserError if its source is gone or cannot be read."""
        entry = self._entry(index)
        try:
            return np.asarray(np.load(entry, mmap_mode="r" if self.mapped else None, allow_pickle=False))
        except (OSError, ValueError, EOFError):  # not there, or not whole
            image = self.read(index)
        self._write(entry, image)
        return image

    def _entry(self, index: int) -> Path:
        source = self.sources[index][0]
        try:
            state = source.stat()
        except OSError as error:
            raise UserError(f"{source} cannot be read any more: {error.strerror}.") from error
        return self.folder / _digest(self.sources[index]) / f"{self.variant}-{state.st_size}-{state.st_mtime_ns}.npy"

    def _write(self, entry: Path, image: Image) -> None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            sweep(entry.parent, ABANDONED)
            with suppress(FileNotFoundError), replacing(entry) as temporary:  # the cache may be deleted at any time, also now
                np.save(temporary, image)
            for outdated in entry.parent.glob(f"{self.variant}-*.npy"):
                if outdated != entry:
                    outdated.unlink(missing_ok=True)
        except OSError as error:
            _warn(self.folder, error.strerror or str(error))


@functools.lru_cache(maxsize=2**17)  # a fifth of the time of a patch
def _digest(source: Source) -> str:
    path, key = source
    return hashlib.sha256(f"{path.resolve()}\n{key}".encode(errors="surrogateescape")).hexdigest()[:40]


@functools.cache  # once in each process, not for every image
def _warn(folder: Path, reason: str) -> None:
    warnings.warn(f"pixels cannot be kept in {folder} ({reason}): images are decoded each time. {_ADVICE}", stacklevel=4)
