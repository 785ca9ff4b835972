"""Defects of data sets: unreadable files, LR that does not fit HR, differences from a list, and duplicate pictures.

Duplicates are found by a hash of the pixels (exact copies) and by imagehash's pHash, 256 low DCT frequencies of the luma:
resized, recompressed or slightly cropped copies. Mirrored or turned copies, and small parts of a picture, are not found.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from preparation.outputs import in_processes
from sr_nas.data.layouts import ImageSet, naming_rules, pair_up
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb

HASH_SIZE = 16
"""Frequencies per axis of a pHash."""
MAX_DISTANCE = 32
"""Bits, of 256, in which two hashes of one picture differ at most. JPEG of quality 30 at half the size changes up to 6, Set14's
face is 8 away from Set5's head; different photos of BSDS200 are 100 and more apart, about 128 on average."""
FLAT = 2.0
"""Grey levels of standard deviation below which an image shows nothing that could be compared."""
BLOCK = 512
"""Images that are compared with all others at a time."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of an HR image."""

    file: Path
    digest: str
    """SHA-256 of its shape and its pixels as 8-bit RGB."""
    bits: np.ndarray
    """float32 [256], the pHash as +1 and -1; all 0 for a flat image, which puts it 128 bits away from every other."""


@dataclass
class Findings:
    """Result of a check."""

    counts: list[str] = field(default_factory=list)
    """One line per folder of a set, such as ``"Set5 x2: 5 images"``."""
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Title -> one line per defect of this kind; the list may be empty."""


def check(
    sets: Sequence[ImageSet],
    workers: int,
    duplicates: bool = True,
    listed: dict[str, Size | None] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Decode every image of these sets and return what is wrong with them.

    Args:
        sets: see :func:`sr_nas.data.layouts.find_sets`; HR images of all are compared with each other.
        workers: number of processes.
        duplicates: look for pictures that are there twice.
        listed: HR name -> size, or ``None`` where the list has no sizes, that the sets together should hold
            (:func:`sr_nas.data.layouts.read_meta_info`).
        progress: called with the number of images decoded and their total.
    """
    hr = {_place(file): file for layout in sets for file in layout.hr.values()}
    others = {
        _place(file): file
        for layout in sets
        for group in (layout.lr, layout.hr_of_scale)
        for files in group.values()
        for file in files.values()
        if _place(file) not in hr
    }
    jobs = [(file, duplicates) for file in hr.values()] + [(file, False) for file in others.values()]
    findings, sizes, fingerprints = Findings(), dict[Path, Size](), list[Fingerprint]()
    for number, (job, result) in enumerate(zip(jobs, in_processes(_inspect, jobs, workers), strict=True), 1):
        progress(number, len(jobs))
        if isinstance(result, str):
            findings.problems["cannot be read"].append(result)
            continue
        sizes[_place(job[0])], fingerprint = result
        fingerprints += [] if fingerprint is None else [fingerprint]
    for layout in sets:
        _check_pairs(layout, sizes, findings)
    if listed is not None:
        findings.problems["differ from the list"] += _list_differences(sets, sizes, listed)
    findings.problems["show the same picture"] += [
        f"{one} and {other}: {'every pixel' if distance is None else f'{distance} of 256 bits of their hashes differ'}"
        for one, other, distance in find_duplicates(fingerprints)
    ]
    return findings


def fingerprint_of(file: Path, image: np.ndarray) -> Fingerprint:
    """Return the fingerprint of an image, uint8 [H, W, 3]."""
    digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
    bits = np.where(imagehash.phash(Image.fromarray(image), HASH_SIZE).hash.flatten(), np.float32(1), np.float32(-1))
    return Fingerprint(file, digest, bits * (image.std() >= FLAT))


def find_duplicates(images: Sequence[Fingerprint]) -> list[tuple[Path, Path, int | None]]:
    """Return pairs of files that show one picture, and in how many bits their hashes differ; ``None``: every pixel is equal."""
    if not images:
        return []
    first: dict[str, int] = {}
    pairs: dict[tuple[int, int], int | None] = {}
    bits = np.stack([image.bits for image in images])
    for start in range(0, len(images), BLOCK):
        distances = (bits.shape[1] - bits[start : start + BLOCK] @ bits.T) / 2
        for row, column in np.argwhere(distances <= MAX_DISTANCE).tolist():
            if start + row < column:
                pairs[start + row, column] = int(distances[row, column])
    for number, image in enumerate(images):
        if (original := first.setdefault(image.digest, number)) != number:
            pairs[original, number] = None
    return [(images[one].file, images[other].file, distance) for (one, other), distance in sorted(pairs.items())]


def _place(file: Path) -> Path:
    """Return the path that tells files apart: a folder may be named twice, by itself and as part of a set."""
    return file.parent.resolve() / file.name


def _inspect(job: tuple[Path, bool]) -> tuple[Size, Fingerprint | None] | str:
    """Return the size of an image and its fingerprint if that is asked for, or why it cannot be read."""
    file, fingerprint = job
    try:
        image = read_rgb(file)
    except UserError as error:
        return str(error)
    return (image.shape[0], image.shape[1]), fingerprint_of(file, image) if fingerprint else None


def _check_pairs(layout: ImageSet, sizes: dict[Path, Size], findings: Findings) -> None:
    findings.counts.append(f"{layout.name} HR: {len(layout.hr)} images" + ("" if layout.lr else ", no LR"))
    for scale, files in sorted(layout.lr.items()):
        findings.counts.append(f"{layout.name} x{scale}: {len(files)} images")
        pairing = pair_up(list(layout.hr), list(files), naming_rules("{}", scale))
        findings.problems[f"{layout.name} x{scale}, HR without LR"] += pairing.without_lr
        findings.problems[f"{layout.name} x{scale}, LR without HR"] += pairing.without_hr
        for name, partner in pairing.lr_of.items():
            hr, lr = layout.hr_at(scale)[name], files[partner]
            hr_size, lr_size = sizes.get(_place(hr)), sizes.get(_place(lr))
            if hr_size and lr_size and lr_size != (expected := (hr_size[0] // scale, hr_size[1] // scale)):
                findings.problems["LR images of the wrong size"].append(
                    f"{lr} has {_pixels(lr_size)}, expected {_pixels(expected)}: {hr} has {_pixels(hr_size)}"
                )


def _list_differences(sets: Sequence[ImageSet], sizes: dict[Path, Size], listed: dict[str, Size | None]) -> list[str]:
    files = {name: file for layout in sets for name, file in layout.hr.items()}
    lines = []
    for name, expected in listed.items():
        size = sizes.get(_place(files[name]), expected) if name in files else None
        if name not in files:
            lines.append(f"'{name}' is listed, but missing")
        elif size and expected and size != expected:
            lines.append(f"{files[name]} has {_pixels(size)}, the list says {_pixels(expected)}")
    return lines + [f"{file} is not listed" for name, file in files.items() if name not in listed]


def _pixels(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
