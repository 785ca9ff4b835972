"""What is wrong with data sets: files that cannot be read, pairs that do not fit, pictures that are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sr_nas.data.layouts import Layout
from sr_nas.data.pairing import naming_rules, pair_up
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb
from sr_nas.preparation.duplicates import Duplicate, Seen, find_duplicates
from sr_nas.preparation.likeness import sketch
from sr_nas.preparation.processes import in_processes

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
            (:func:`sr_nas.data.meta_info.read_meta_info`).
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
