"""Folders of images: which files are images, which are images of other kinds, and which cannot be read."""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path

from sr_nas.errors import UserError, listing
from sr_nas.images.files import IMAGE_SUFFIXES, NO_PERMISSION, unreadable

_OTHER_IMAGES = re.compile(
    r"\.(3fr|apng|arw|avif|bpg|cr[23w]|cur|dcr|dds|dib|dng|dpx|emf|eps|erf|exr|fits?|flif|gif|hdr|hei[cf]s?|hif|icns|ico|iiq|j2[ck]|"
    r"jp2|jp[cfmx]|jxl|jxr|kdc|mef|mos|mpo|mrw|nef|nrw|orf|p[abgnp]m|pcx|pef|pfm|pict|pjp|pjpeg|ps[bd]|qoi|raf|raw|rw[2l]|sgi|sr[2fw]|"
    r"svg|tga|wbmp|wdp|wmf|x3f|x[bp]m|xcf)",
    re.IGNORECASE,
)
"""Suffixes of images that are not read, but for those of :data:`~sr_nas.images.files.IMAGE_SUFFIXES`."""


def is_folder(path: Path) -> bool:
    """Return whether a folder is there; a UserError where this cannot be known: a broken link, or no permission to look."""
    for place in (path.parent, path):
        problem = "" if os.path.isdir(place) else unreadable(place) or "it is a file"
        if problem == NO_PERMISSION or (problem and os.path.islink(place)):
            raise UserError(f"{place} cannot be read as a folder: {problem}.")
    return os.path.isdir(path)


def list_images(folder: Path) -> list[Path]:
    """Return the images that :func:`find_images` finds directly in ``folder``, sorted by name."""
    return sorted(find_images(folder))


def find_images(folder: Path, recursive: bool = False, besides: Path | None = None, follow: bool = False) -> list[Path]:
    """Return what is named as an image in ``folder``, and below it if ``recursive``, in any order.

    That may be :func:`unreadable`, such as a broken link: without it the rest would be taken for the whole. A folder below that
    cannot be listed is returned too, and a broken link that may have led to one. Images of other kinds, and links to folders
    that are not followed, are counted on stderr.

    Args:
        besides: a folder to leave out, as hidden files and folders are.
        follow: search folders that links lead to as well, each once.

    Raises:
        UserError: the folder is missing or cannot be listed, or no image is in it.
    """
    try:
        content = sorted(name for name in os.listdir(folder) if name[0] != ".")
    except OSError as error:
        problems = {FileNotFoundError: "does not exist", NotADirectoryError: "is not a folder"}
        raise UserError(f"{folder} {problems.get(type(error)) or f'cannot be listed: {error.strerror}'}.") from error
    images, others, links = list[Path](), list[Path](), list[Path]()
    entered = {os.path.realpath(place) for place in (folder, besides) if place is not None}
    for place, folders, names in os.walk(folder, onerror=lambda error: images.append(Path(error.filename)), followlinks=follow):
        files, below = ([Path(place, name) for name in some if name[0] != "."] for some in (names, folders))
        others += [file for file in files if _OTHER_IMAGES.fullmatch(file.suffix) and file.suffix.lower() not in IMAGE_SUFFIXES]
        images.extend(file for file in files + below * (not recursive) if file.suffix.lower() in IMAGE_SUFFIXES)
        if recursive:  # a link to a folder that is not there
            images.extend(file for file in files if not file.suffix and not os.path.exists(file))
        folders.clear()  # what is in it then is walked
        for path in below if recursive else ():
            if path.is_symlink() and not follow:
                links.append(path)
            elif (real := os.path.realpath(path)) not in entered:
                entered.add(real)
                folders.append(path.name)
    if not images:
        there = listing((name + "/" * os.path.isdir(folder / name) for name in content), limit=5) or "nothing"
        raise UserError(f"no image in {folder}{' or below' * recursive}: looked for {listing(IMAGE_SUFFIXES)}, found {there}.")
    for paths, remark in ((others, "images of other kinds are left out"), (links, "links to folders are not followed")):
        if paths:
            note(f"{folder}: {len(paths)} {remark} ({listing(sorted(path.relative_to(folder) for path in paths), 5)})")
    return images


@functools.cache  # a set is listed several times, at each scale for example
def note(text: str) -> None:
    """Print a remark on stderr, once a process."""
    print(text, file=sys.stderr)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Sort key by which ``frame_9.png`` comes before ``frame_10.png``."""
    parts = [re.split(r"(\d+)", part.lower()) for part in path.parts]
    return [[int(piece) if number % 2 else piece for number, piece in enumerate(part)] for part in parts], str(path)
