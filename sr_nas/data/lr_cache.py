"""LR images made from HR files, computed once and kept on disk between runs."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sr_nas.cache import cache_folder
from sr_nas.data.pairs import Image
from sr_nas.errors import UserError
from sr_nas.runs.files import replacing

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
