"""A benchmark set from a copy of any known layout into the project's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_nas.data.layouts import Layout, recognise
from sr_nas.data.pairs import common_scale, match_names, naming_rules
from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES, image_size, read_image, write_image
from sr_nas.preparation.download import extract, is_hidden, opened
from sr_nas.preparation.outputs import Placed, move_in, unfinished


def adopt(source: Path, target: Path, count: int, scales: Sequence[int] | None = None) -> Iterator[tuple[Path, Placed]]:
    """Copy a benchmark set into ``HR/NAME`` and ``LR_matlab/x2/NAMEx2`` of its folder; the source stays as it is.

    Args:
        source: a folder, or a zip or tar archive, that holds the set in a layout that
            :func:`sr_nas.data.layouts.recognise` knows, at its top or deeper.
        target: the set's folder, of its name.
        count: HR images that the set has.
        scales: of the LR images to take; ``None`` takes all that there are.

    Returns:
        Each folder as soon as it is done, with what was written.

    Raises:
        UserError: the layout is unknown, there are several such sets and none has this name, or HR and LR do not pair up or fit,
            LR images of a scale are missing, or another run is writing there.
    """
    with _as_folder(source, target) as folder:
        layout = _the_set(folder, source, target.name, count)
        missing = sorted(set(scales or ()) - set(layout.lr))
        if missing:
            raise UserError(
                f"{source} has no LR images of scale {listing(missing)}, only of {listing(sorted(layout.lr)) or 'none'}."
            )
        lr = {scale: _partners(layout, scale) for scale in (layout.lr if scales is None else scales)}
        for scale, partners in lr.items():
            for name, file in partners.items():
                hr = layout.hr_at(scale)[name]
                (height, width), found = image_size(hr), image_size(file)
                if found != (height // scale, width // scale):
                    raise UserError(
                        f"{file} has {found[1]}x{found[0]} pixels, expected {width // scale}x{height // scale}: "
                        f"{hr} has {width}x{height}."
                    )
        wanted = {(target / "HR", 1): dict(layout.hr)}
        for scale, partners in lr.items():
            wanted[target / "LR_matlab" / f"x{scale}", scale] = partners
        for (place, scale), files in wanted.items():
            with unfinished(place) as filling:
                for name, file in files.items():
                    copy = filling / (f"{name}{file.suffix}" if scale == 1 else f"{name}x{scale}{file.suffix}")
                    _copy(file, copy, layout.hr[name], scale)
                yield place, move_in(filling, place)


def _copy(file: Path, copy: Path, hr: Path, scale: int) -> None:
    """Copy an image; where HR was cropped for another scale, without the LR pixels that lie beyond its border."""
    height, width = (side // scale for side in image_size(hr))
    if image_size(file) == (height, width) or scale == 1:
        shutil.copyfile(file, copy)
    else:
        write_image(copy, read_image(file)[:height, :width])


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
        lr_names = [layout for layout in found if common_scale(layout.hr)]
        tried += [f"{place}: those are named as LR images of scale {common_scale(layout.hr)}." for layout in lr_names]
        fitting += [(place, layout) for layout in found if len(layout.hr) == count and layout not in lr_names]
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
def _as_folder(source: Path, target: Path) -> Iterator[Path]:
    """Give the source itself if it is a folder, else one into which its images are unpacked for the time being."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UserError(f"--from: {source} does not exist.")
    with unfinished(target.with_name(f"{target.name}-unpacked")) as folder, opened(source, "Take another copy of it.") as members:
        for member in members:
            if not is_hidden(member.path) and Path(member.path).suffix.lower() in IMAGE_SUFFIXES:
                file = folder / member.path
                file.parent.mkdir(parents=True, exist_ok=True)
                extract(member, file)
        yield folder
