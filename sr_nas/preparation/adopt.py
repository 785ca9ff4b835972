"""A benchmark set from a copy of any known layout into the project's."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sr_nas.data.layouts import Layout, recognise
from sr_nas.data.pairing import match_names, naming_rules
from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES
from sr_nas.images.size import image_size
from sr_nas.preparation.archives import extract, is_hidden, opened
from sr_nas.preparation.placing import Placed, move_in, unfinished


def adopt(source: Path, target: Path, count: int) -> Iterator[tuple[Path, Placed]]:
    """Copy a benchmark set into ``HR/NAME`` and ``LR_matlab/x2/NAMEx2`` of its folder; the source stays as it is.

    Args:
        source: a folder, or a zip or tar archive, that holds the set in a layout that
            :func:`sr_nas.data.layouts.recognise` knows, at its top or deeper.
        target: the set's folder, of its name.
        count: HR images that the set has.

    Returns:
        Each folder as soon as it is done, with what was written.

    Raises:
        UserError: the layout is unknown, there are several such sets and none has this name, or HR and LR do not pair up or fit.
    """
    with _as_folder(source, target.parent) as folder:
        layout = _the_set(folder, source, target.name, count)
        lr = {scale: _partners(layout, scale) for scale in layout.lr}
        for scale, partners in lr.items():
            for name, file in partners.items():
                (height, width), found = image_size(layout.hr[name]), image_size(file)
                if found != (height // scale, width // scale):
                    raise UserError(
                        f"{file} has {found[1]}x{found[0]} pixels, expected {width // scale}x{height // scale}: "
                        f"{layout.hr[name]} has {width}x{height}."
                    )
        wanted = {target / "HR": {f"{name}{file.suffix}": file for name, file in layout.hr.items()}}
        for scale, partners in lr.items():
            wanted[target / "LR_matlab" / f"x{scale}"] = {f"{name}x{scale}{file.suffix}": file for name, file in partners.items()}
        for place, files in wanted.items():
            with unfinished(place) as filling:
                for name, file in files.items():
                    shutil.copyfile(file, filling / name)
                yield place, move_in(filling, place)


def _the_set(folder: Path, source: Path, name: str, count: int) -> Layout:
    """Return the set of that name in a folder or in one of those below it, or the only one of the right number of images."""
    inner = sorted(path for path in folder.rglob("*") if path.is_dir() and not is_hidden(path.relative_to(folder).as_posix()))
    tried: list[str] = []
    fitting: list[tuple[Path, Layout]] = []
    for place in (folder, *inner):
        try:
            found = recognise(place)
        except UserError as error:
            tried.append(str(error))
            continue
        tried += [f"{place} holds {len(layout.hr)} images ({layout.kind})." for layout in found]
        fitting += [(place, layout) for layout in found if len(layout.hr) == count]
    if not fitting:
        shown = "\n".join(tried[:5]) + (f"\n... and {len(tried) - 5} folders more" if len(tried) > 5 else "")
        raise UserError(f"{source} holds no set of {count} HR images in a known layout.\n{shown}")
    for place, layout in fitting:
        if name.lower() in (place.name.lower(), layout.name.lower()):
            return layout
    # Folders come before what is in them: those of HR and LR alone would be recognised again.
    first, layout = fitting[0]
    others = [place for place, _ in fitting if not place.is_relative_to(first)]
    if others:
        raise UserError(f"{source} holds several sets of {count} images, and none is called {name}: {listing([first, *others])}.")
    return layout


def _partners(layout: Layout, scale: int) -> dict[str, Path]:
    files = layout.lr[scale]
    names = match_names(list(layout.hr), list(files), naming_rules("{}", scale), "HR", f"LR of scale {scale}")
    return {name: files[partner] for name, partner in zip(layout.hr, names, strict=True)}


@contextlib.contextmanager
def _as_folder(source: Path, near: Path) -> Iterator[Path]:
    """Give the source itself if it is a folder, else one into which its images are unpacked for the time being."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UserError(f"--from: {source} does not exist.")
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=near, prefix=".unpacked-") as name, opened(source) as members:
        for member in members:
            if not is_hidden(member.path) and Path(member.path).suffix.lower() in IMAGE_SUFFIXES:
                target = Path(name) / member.path
                target.parent.mkdir(parents=True, exist_ok=True)
                extract(member, target)
        yield Path(name)
