"""Images that show the same picture: copies, other encodings, resized ones, and parts of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_nas.preparation.likeness import COARSE, FINE, Grey, best_likeness, thumbnail, window_thumbnails

CANDIDATE = 0.8
"""Coarse likeness from which two images are compared finely. Parts of photos, JPEG of quality 60, have 0.85 and more."""
SAME = 0.98
"""Fine likeness from which two are called the same. Such parts have 0.99 and more, different photos of BSDS200 up to 0.945."""


@dataclass(frozen=True)
class Seen:
    """What is kept of an image to compare it.

    Attributes:
        file: the image.
        digest: of its pixels as 8-bit RGB, and of their shape.
        grey: see :func:`sr_nas.preparation.likeness.sketch`.
    """

    file: Path
    digest: str
    grey: Grey


@dataclass(frozen=True)
class Duplicate:
    """Two images of one picture; ``likeness`` is 1 where every pixel is the same."""

    one: Path
    other: Path
    likeness: float


def find_duplicates(images: Sequence[Seen], report: Callable[[], None] = lambda: None) -> list[Duplicate]:
    """Return the pairs of images of which one shows the other, or a part of it at least half as high and wide.

    Mirrored and turned images are not found. Time grows with the square of the number of images; a thousand take about a minute.

    Args:
        images: all to compare, each with each.
        report: called once per image.
    """
    coarse = np.stack([thumbnail(image.grey, COARSE) for image in images]) if images else np.empty((0, 1))
    fine = [thumbnail(image.grey, FINE) for image in images]
    found: dict[tuple[int, int], float] = {}
    for number, image in enumerate(images):
        windows, thumbnails = window_thumbnails(image.grey)
        likeness = thumbnails @ coarse.T
        nearest, highest = likeness.argmax(axis=0), likeness.max(axis=0)
        for other in np.flatnonzero(highest > CANDIDATE).tolist():
            if other == number:
                continue
            value = best_likeness(fine[other], image.grey, windows[nearest[other]])
            pair = (min(number, other), max(number, other))
            if value >= SAME:
                found[pair] = max(value, found.get(pair, 0.0))
        report()
    # A likeness that rounds to 1 is no equality: that is the digest's to say.
    equal = set(_equal(images))
    found |= dict.fromkeys(equal, 1.0)
    return [
        Duplicate(images[one].file, images[other].file, 1.0 if (one, other) in equal else min(value, 0.9999))
        for (one, other), value in sorted(found.items())
    ]


def _equal(images: Sequence[Seen]) -> list[tuple[int, int]]:
    by_digest: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        by_digest.setdefault(image.digest, []).append(number)
    return [(group[0], other) for group in by_digest.values() for other in group[1:]]
