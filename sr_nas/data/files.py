"""Pairs of image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from sr_nas.data.lr_cache import cached_lr
from sr_nas.data.pairs import Image, Pairs
from sr_nas.data.pixel_cache import PixelCache, cached
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb
from sr_nas.images.resize import downscale
from sr_nas.images.size import image_size


def file_pairs(
    names: Iterable[str], hr: Sequence[Path], lr: Sequence[Path] | None, scale: int, cache: PixelCache = False
) -> Pairs:
    """Return the pairs of these image files.

    Args:
        names: what to call each pair.
        hr: the HR images, in the order of the names.
        lr: the LR images in the same order; ``None`` makes each from its HR image by
            :func:`sr_nas.images.resize.downscale` and keeps it in the disk cache.
        scale: HR pixels per LR pixel and side.
        cache: whether, or where, the pixels of both are kept too (:func:`sr_nas.data.pixel_cache.cached`).

    Raises:
        UserError: the pixel cache cannot be used.
    """
    read_lr = partial(_downscaled, hr, scale) if lr is None else partial(_read, lr)
    shown = [(str(one), str(other)) for one, other in zip(hr, hr if lr is None else lr, strict=True)]
    pairs = Pairs(list(names), scale, partial(_read, hr), read_lr, shown)
    own_lr = None if lr is None else [(path, "") for path in lr]
    return cached(pairs, [(path, "") for path in hr], own_lr, cache, lambda index: _size(hr[index]))


def _size(file: Path) -> tuple[int, int] | None:
    try:
        return image_size(file)
    except UserError:
        return None


# Functions of the module, not closures: what reads the images is pickled to the loader's worker processes.
def _read(files: Sequence[Path], index: int) -> Image:
    return read_rgb(files[index])


def _downscaled(files: Sequence[Path], scale: int, index: int) -> Image:
    return cached_lr(files[index], scale, lambda: downscale(read_rgb(files[index]), scale))
