"""LR images made from HR files, computed once and kept on disk between runs."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from sr_nas.data.pairs import Image, Pairs
from sr_nas.errors import UserError
from sr_nas.images.resize import downscale
from sr_nas.runs.files import ABANDONED, cache_folder, replacing, sweep

# Part of every key: a new number when the resizing changes a pixel.
RECIPE = "bicubic-1"
DIGEST_BYTES = hashlib.sha256().digest_size


def cached_lr(file: Path, scale: int, make: Callable[[], Image]) -> Image:
    """Return the LR image of an HR file, from the cache where it holds one of the file as it is now.

    Args:
        file: the HR image; its entry is found by resolved path, size, modification time and scale.
        scale: HR pixels per LR pixel and side.
        make: computes the LR image, uint8 [h, w, 3]; called when there is no entry, or a damaged one.

    Raises:
        UserError: the file cannot be found, or the cache cannot be read or written.
    """
    path = file.resolve()
    if not path.is_file():
        raise UserError(f"{file} does not exist any more.")
    state = path.stat()
    key = hashlib.sha256(f"{RECIPE}\n{path}\n{state.st_size}\n{state.st_mtime_ns}\n{scale}".encode()).hexdigest()
    try:
        entry = cache_folder("lr") / f"{key}.npy.z"
        lr = _read(entry)
        if lr is None:
            lr = make()
            _write(entry, lr)
    except OSError as error:
        raise UserError(
            f"the LR image of {file} cannot be kept in the cache: {error}. "
            "Set SR_NAS_CACHE to a folder that can be written, or free space."
        ) from error
    return lr


def _read(entry: Path) -> Image | None:
    """Return what the entry holds, or ``None`` if there is none or its digest tells of damage."""
    if not entry.is_file():
        return None
    content = entry.read_bytes()
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return np.load(io.BytesIO(zlib.decompress(body)), allow_pickle=False)


def _write(entry: Path, lr: Image) -> None:
    plain = io.BytesIO()
    np.save(plain, lr, allow_pickle=False)
    body = zlib.compress(plain.getvalue(), level=1)
    with replacing(entry) as temporary:
        temporary.write_bytes(hashlib.sha256(body).digest() + body)


# MERGED sr_nas.data.cache: Decoded images on disk, mapped into memory: a patch reads the pages that it
# lies on and nothing else.
#
# An entry is one image: a header of one page, then its pixels, uint8 [H, W, 3], row by row. It is mapped while
# a patch is cut out
# and let go after it, so that a process holds neither memory nor open files in proportion to the data set, and
# all processes share
# what the system keeps of the files. The header tells size and modification time of the file that the pixels
# come from: an entry of
# a file that has changed since is replaced, and so is one that is cut off or that is no entry. The pixels
# themselves are not
# checked, which would take reading all of them; they are flushed to disk before the entry gets its name.


MAGIC = b"srpixel1"
HEADER = struct.Struct("<8s4q")
"""Magic; bytes and modification time (ns) of the source file; height and width."""
FIRST_PIXEL = 4096
"""Where the pixels begin. Not the end of the header: rows then lie on fewer pages."""

PixelCache = bool | Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
"""Option: whether decoded pixels are kept on disk; a path is the folder to keep them in."""

Origin = tuple[Path, str]
"""A file, and which image of it is meant: a key, or ``""`` where the file is the image."""


def cached(
    pairs: Pairs,
    hr: Sequence[Origin],
    lr: Sequence[Origin] | None,
    cache: PixelCache,
    size_of: Callable[[int], tuple[int, int] | None],
) -> Pairs:
    """Return the same pairs, read from the pixel cache; an image that is not in it is read and kept when first asked for.

    Args:
        pairs: the images. LR that they make from HR is kept too.
        hr: where each HR image comes from.
        lr: where each LR image comes from; ``None`` where it is made from HR.
        cache: ``True`` for the cache folder, a path for a folder of the user's (made where it is missing), ``False``
            returns ``pairs``.
        size_of: index -> height and width of an HR image, found without decoding it, or ``None`` if that fails.

    Raises:
        UserError: the folder cannot be used, or its disk has no room for what is not cached yet.
    """
    if cache is False:
        return pairs
    try:
        folder = cache_folder("pixels") if cache is True else Path(cache)
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, ABANDONED)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(f"pixels cannot be kept in the cache: {error}. {_ADVICE}") from error
    read_hr = _Mapped(folder, hr, "", pairs.read_hr)
    if pairs.read_lr is None or lr is None:
        read_lr = _Mapped(folder, hr, f"{RECIPE}\n{pairs.scale}", partial(_downscaled, read_hr, pairs.scale))
    else:
        read_lr = _Mapped(folder, lr, "", pairs.read_lr)
    sizes = [size_of(index) for index in range(len(pairs)) if not read_hr.entry(index).exists()]
    needed = round(sum(height * width for height, width in filter(None, sizes)) * 3 * (1 + 1 / pairs.scale**2))
    if needed > free:
        raise UserError(
            f"the pixels of {len(sizes)} images take {needed / 1e9:.1f} GB in the cache, and the disk of {folder} "
            f"has {free / 1e9:.1f} GB left. {_ADVICE}"
        )
    return Pairs(pairs.names, pairs.scale, read_hr, read_lr, pairs.files, mapped=True)


def mapped_pixels(entry: Path, source: Path, make: Callable[[], Image]) -> Image:
    """Return an image from its entry, mapped and read-only; or make it, and the entry with it.

    Args:
        entry: the file of the cache.
        source: the file whose size and modification time tell whether the entry still holds.
        make: returns the image, uint8 [H, W, 3]; called when there is no entry, an old or a damaged one.

    Raises:
        UserError: the source is gone, or the entry cannot be read or written.
    """
    try:
        state = source.stat()
    except OSError as error:
        raise UserError(f"{source} cannot be read any more: {error.strerror}.") from error
    stamp = (state.st_size, state.st_mtime_ns)
    try:
        image = _map(entry, stamp)
        if image is None:
            image = make()
            _pixel_cache_write(entry, stamp, image)
    except OSError as error:
        raise UserError(f"the pixels of {source} cannot be kept in the cache: {error}. {_ADVICE}") from error
    return image


@dataclass(frozen=True)
class _Mapped:
    """Reads images through the cache. ``variant`` tells apart what is made of one origin."""

    folder: Path
    origins: Sequence[Origin]
    variant: str
    read: Callable[[int], Image]
    _entries: dict[int, Path] = field(default_factory=dict, init=False, repr=False, compare=False)

    def entry(self, index: int) -> Path:
        if index not in self._entries:
            path, key = self.origins[index]
            name = hashlib.sha256(f"{path.resolve()}\n{key}\n{self.variant}".encode(errors="surrogateescape")).hexdigest()
            self._entries[index] = self.folder / f"{name}.pixels"
        return self._entries[index]

    def __call__(self, index: int) -> Image:
        return mapped_pixels(self.entry(index), self.origins[index][0], partial(self.read, index))


_ADVICE = "Free space, name a folder on another disk (cache: FOLDER), or decode the images each time (cache: false)."


def _downscaled(read_hr: Callable[[int], Image], scale: int, index: int) -> Image:
    return downscale(read_hr(index), scale)


def _map(entry: Path, stamp: tuple[int, int]) -> Image | None:
    """Return the pixels of an entry, or ``None`` if there is none that is whole and of this source."""
    try:
        with entry.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    if len(content) <= FIRST_PIXEL:
        return None
    magic, size, modified, height, width = HEADER.unpack_from(content)
    if (magic, size, modified) != (MAGIC, *stamp) or min(height, width) < 1 or len(content) != FIRST_PIXEL + height * width * 3:
        return None
    return np.frombuffer(content, np.uint8, offset=FIRST_PIXEL).reshape(height, width, 3)


def _pixel_cache_write(entry: Path, stamp: tuple[int, int], image: Image) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    # The cache may be deleted at any time, also now: the entry is then written when it is next asked for.
    with suppress(FileNotFoundError), replacing(entry) as temporary, temporary.open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, *stamp, *image.shape[:2]).ljust(FIRST_PIXEL, b"\0"))
        stream.write(np.ascontiguousarray(image).data)
