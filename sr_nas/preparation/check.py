"""How much one image looks like another, or like a part of it.

An image is described by a small grey thumbnail without its mean and contrast; the likeness of two is the correlation of
their thumbnails, 1 for the same picture. A sub-image is looked for among windows of the other image: first among a fixed
set of them, coarsely, then by moving the sides of the best one, finely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sr_nas.data.layouts import Layout
from sr_nas.data.pairs import naming_rules, pair_up
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb
from sr_nas.preparation.outputs import in_processes

Grey = NDArray[np.uint8]
Window = tuple[int, int, int, int]
"""Top, left, height, width."""

SKETCH = 256
"""Longer side of what is kept of an image, in pixels."""
COARSE, FINE = 12, 32
"""Side of the thumbnails that are compared first and last."""
FLAT = 2.0
"""Grey levels of standard deviation below which a thumbnail shows nothing."""
SHRINKS = (1, 0.93, 0.86, 0.8, 0.74, 0.69, 0.64, 0.59, 0.54, 0.5)
"""Sides of the windows; height and width differ by one step at most."""
SMALLEST = 0.45
"""Share of a side that a window may shrink to when it is moved."""


def sketch(image: np.ndarray) -> Grey:
    """Return what is kept of an image: grey, its longer side :data:`SKETCH` pixels, shrunk by averaging.

    Args:
        image: uint8 [H, W, 3].
    """
    grey = image.mean(axis=2, dtype=np.float32)
    height, width = grey.shape
    factor = SKETCH / max(height, width)
    shape = max(FINE, round(width * factor)), max(FINE, round(height * factor))
    return np.rint(cv2.resize(grey, shape, interpolation=cv2.INTER_AREA)).astype(np.uint8)


def thumbnail(grey: np.ndarray, side: int) -> np.ndarray:
    """Return float32 [side * side] of mean 0 and norm 1; zeros of an image that is flat."""
    return _normalised(_shrunk(grey.astype(np.float32), side)[None])[0]


def _shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).reshape(-1)


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > FLAT * rows.shape[1] ** 0.5, rows / np.maximum(norms, 1e-9), 0.0)


def window_thumbnails(grey: Grey) -> tuple[list[Window], np.ndarray]:
    """Return windows all over a sketch, and their coarse thumbnails, float32 [windows, COARSE * COARSE]."""
    height, width = grey.shape
    boxes = _windows(height // 3, width // 3)
    small = cv2.resize(grey, (width // 3, height // 3), interpolation=cv2.INTER_AREA).astype(np.float32)
    rows = np.stack([_shrunk(small[top : top + h, left : left + w], COARSE) for top, left, h, w in boxes])
    return [(top * 3, left * 3, h * 3, w * 3) for top, left, h, w in boxes], _normalised(rows)


def best_likeness(fine: np.ndarray, grey: Grey, window: Window) -> float:
    """Return the highest likeness that moving the sides of a window reaches.

    Args:
        fine: the fine thumbnail of the image that is looked for.
        grey: sketch of the image it is looked for in.
        window: where to begin.
    """
    best, step = _likeness(fine, grey, window), max(grey.shape) // 24
    while step:
        tried = [(_likeness(fine, grey, moved), moved) for moved in _moved(window, step) if _fits(moved, grey)]
        value, moved = max(tried, default=(best, window))
        if value > best:
            best, window = value, moved
        else:
            step //= 2
    return best


def _likeness(fine: np.ndarray, grey: Grey, window: Window) -> float:
    top, left, height, width = window
    return float(thumbnail(grey[top : top + height, left : left + width], FINE) @ fine)


def _moved(window: Window, step: int) -> list[Window]:
    top, left, h, w = window
    shifts = [(top + d, left, h, w) for d in (-step, step)] + [(top, left + d, h, w) for d in (-step, step)]
    far_sides = [(top, left, h + d, w) for d in (-step, step)] + [(top, left, h, w + d) for d in (-step, step)]
    near_sides = [(top + d, left, h - d, w) for d in (-step, step)] + [(top, left + d, h, w - d) for d in (-step, step)]
    return shifts + far_sides + near_sides


def _fits(window: Window, grey: Grey) -> bool:
    top, left, h, w = window
    height, width = grey.shape
    inside = top >= 0 and left >= 0 and top + h <= height and left + w <= width
    return inside and h >= SMALLEST * height and w >= SMALLEST * width


@cache
def _windows(height: int, width: int) -> list[Window]:
    boxes = set()
    for number, tall in enumerate(SHRINKS):
        for wide in SHRINKS[max(0, number - 1) : number + 2]:
            h, w = round(height * tall), round(width * wide)
            for top in np.linspace(0, height - h, 1 + round((height - h) / h * 10)):
                for left in np.linspace(0, width - w, 1 + round((width - w) / w * 10)):
                    boxes.add((round(float(top)), round(float(left)), h, w))
    return sorted(boxes)


# MERGED sr_nas.preparation.check: Images that show the same picture: copies, other encodings, resized
# ones, and parts of another.


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
        grey: see :func:`sr_nas.preparation.check.sketch`.
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


# MERGED sr_nas.preparation.check: What is wrong with data sets: files that cannot be read, pairs that do not
# fit, pictures that are there twice.


Size = tuple[int, int]
"""Height and width."""


@dataclass
class Findings:
    """What a check found; everything but the counts is a defect.

    Attributes:
        counts: (set, ``"HR"`` or ``"x2"`` and so on, number of images), of all that was looked at.
        unreadable: messages that name the file.
        unpaired: (set, scale, HR names without LR, LR names without HR).
        misfits: messages about LR images whose size is not that of HR divided by the scale.
        unlisted: messages about a list of images that is not of these.
        duplicates: images of one picture.
    """

    counts: list[tuple[str, str, int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unpaired: list[tuple[str, int, list[str], list[str]]] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.unreadable or self.unpaired or self.misfits or self.unlisted or self.duplicates)


def check(
    sets: Sequence[Layout],
    workers: int,
    duplicates: bool = True,
    listed: dict[str, Size | None] | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Findings:
    """Look at every image of these sets.

    Args:
        sets: see :func:`sr_nas.data.layouts.recognise`; HR images of all are compared with each other.
        workers: processes that decode.
        duplicates: look for pictures that are there twice.
        listed: HR name -> size, or ``None`` where it is not told, that the sets together should hold
            (:func:`sr_nas.data.pairs.read_meta_info`).
        report: told what is being done, and how much of it.
    """
    found = Findings()
    hr_files = [file for layout in sets for file in layout.hr.values()]
    # HR images that were cropped for one scale are parts of those.
    others = [
        file for layout in sets for part in (layout.lr, layout.own_hr) for files in part.values() for file in files.values()
    ]
    # A folder may be named twice, by itself and by the set it belongs to: an image is no duplicate of itself.
    first = {file.resolve(): file for file in reversed(hr_files)}
    known = set(hr_files)
    jobs = [(file, duplicates and first[file.resolve()] is file) for file in hr_files]
    jobs += [(file, False) for file in dict.fromkeys(others) if file not in known]
    sizes: dict[Path, Size] = {}
    seen: list[Seen] = []
    for number, (job, result) in enumerate(zip(jobs, in_processes(_look, jobs, workers), strict=True), 1):
        report("reading", number, len(jobs))
        if isinstance(result, str):
            found.unreadable.append(result)
            continue
        sizes[job[0]] = result[0]
        if result[1] is not None:
            seen.append(result[1])
    for layout in sets:
        _check_pairs(layout, sizes, found)
    if listed is not None:
        _check_list(sets, sizes, listed, found)
    if duplicates:
        compared = iter(range(1, len(seen) + 1))
        found.duplicates = find_duplicates(seen, lambda: report("comparing", next(compared), len(seen)))
    return found


def _look(job: tuple[Path, bool]) -> tuple[Size, Seen | None] | str:
    file, wanted = job
    try:
        image = read_rgb(file)
    except UserError as error:
        return str(error)
    size = (image.shape[0], image.shape[1])
    if not wanted:
        return size, None
    digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    return size, Seen(file, digest, sketch(image))


def _check_pairs(layout: Layout, sizes: dict[Path, Size], found: Findings) -> None:
    found.counts.append((layout.name, "HR", len(layout.hr)))
    for scale, files in sorted(layout.lr.items()):
        found.counts.append((layout.name, f"x{scale}", len(files)))
        pairing = pair_up(list(layout.hr), list(files), naming_rules("{}", scale))
        if pairing.without_lr or pairing.without_hr:
            found.unpaired.append((layout.name, scale, pairing.without_lr, pairing.without_hr))
        for name, partner in pairing.lr_of.items():
            hr, lr = layout.hr_at(scale)[name], files[partner]
            if hr in sizes and lr in sizes:
                expected = (sizes[hr][0] // scale, sizes[hr][1] // scale)
                if sizes[lr] != expected:
                    found.misfits.append(
                        f"{lr} has {_pixels(sizes[lr])}, expected {_pixels(expected)}: {hr} has {_pixels(sizes[hr])}"
                    )


def _check_list(sets: Sequence[Layout], sizes: dict[Path, Size], listed: dict[str, Size | None], found: Findings) -> None:
    files = {name: file for layout in sets for name, file in layout.hr.items()}
    for name, size in listed.items():
        if name not in files:
            found.unlisted.append(f"'{name}' is listed, and not there")
        elif size is not None and sizes.get(files[name], size) != size:
            found.unlisted.append(f"{files[name]} has {_pixels(sizes[files[name]])}, the list says {_pixels(size)}")
    found.unlisted += [f"{file} is there, and not listed" for name, file in files.items() if name not in listed]


def _pixels(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
