"""The images of a data set, however its folders and files are named by those who publish it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sr_nas.data.pairs import by_stem
from sr_nas.errors import UserError, listing
from sr_nas.images.files import image_size, list_images
from sr_nas.options.strict import describe_missing

SCALES = (2, 3, 4, 8)
"""Scales that are looked for."""

_SELFEXSR = re.compile(r"(.+)_SRF_(\d+)_(HR|LR)")


@dataclass(frozen=True)
class Layout:
    """The images of one set.

    Attributes:
        name: of the set.
        kind: whose layout it is, for messages.
        hr: name -> HR image.
        lr: scale -> name as the file has it -> LR image.
        own_hr: scale -> name -> HR image as it was cropped for that scale, where a set has one for each.
    """

    name: str
    kind: str
    hr: dict[str, Path]
    lr: dict[int, dict[str, Path]]
    own_hr: dict[int, dict[str, Path]] = field(default_factory=dict)

    def hr_at(self, scale: int) -> dict[str, Path]:
        """Return name -> HR image of which the LR image of this scale was made."""
        return self.hr | self.own_hr.get(scale, {})


def recognise(folder: Path) -> list[Layout]:
    """Return the sets that lie in a folder: one, or the splits of DIV2K.

    Known are DIV2K's layout (``DIV2K_train_HR``, ``DIV2K_train_LR_bicubic/X2``), SelfExSR's
    (``image_SRF_2/img_001_SRF_2_HR.png``), and those of :func:`sr_nas.data.layouts.resolve_set`, which are this
    project's, EDSR's, IMDN's and BasicSR's, and a plain folder of images.

    Raises:
        UserError: the folder is of none of these; the text lists what was tried. Or two images have one name.
    """
    found = list(_div2k(folder)) or list(_selfexsr(folder))
    if found:
        return found
    try:
        sets = {scale: resolve_set(folder, scale) for scale in SCALES}
    except UserError as error:
        if not folder.is_dir():
            raise
        raise UserError(
            f"{error}\nTried too: DIV2K (DIV2K_train_HR, DIV2K_train_LR_bicubic/X2) and SelfExSR "
            "(image_SRF_2/img_001_SRF_2_HR.png)."
        ) from error
    name, hr, _ = sets[2]
    lr = {scale: by_stem(list_images(place)) for scale, (_, _, place) in sets.items() if place is not None}
    return [Layout(name, "a folder of HR images" if hr == folder else f"HR in {hr.name}", by_stem(list_images(hr)), lr)]


def _div2k(folder: Path) -> Iterator[Layout]:
    own = re.fullmatch(r"DIV2K_(\w+)_HR", folder.resolve().name)
    above = folder.resolve().parent if own else folder
    for split in (own[1],) if own else ("train", "valid", "test"):
        hr = above / f"DIV2K_{split}_HR"
        if hr.is_dir():
            places = {scale: above / f"DIV2K_{split}_LR_bicubic" / f"X{scale}" for scale in SCALES}
            lr = {scale: by_stem(list_images(place)) for scale, place in places.items() if place.is_dir()}
            yield Layout(f"DIV2K_{split}", "DIV2K", by_stem(list_images(hr)), lr)


def _selfexsr(folder: Path) -> Iterator[Layout]:
    """HR is cropped for each scale there, at its right and lower border: of these the largest is taken."""
    hr: dict[str, Path] = {}
    lr: dict[int, dict[str, Path]] = {}
    own_hr: dict[int, dict[str, Path]] = {}
    for scale in SCALES:
        place = folder / f"image_SRF_{scale}"
        for file in list_images(place) if place.is_dir() else []:
            parsed = _SELFEXSR.fullmatch(file.stem)
            if parsed is None or int(parsed[2]) != scale:
                continue  # results of methods lie beside them: img_001_SRF_2_bicubic.png
            name, kind = parsed[1], parsed[3]
            if kind == "LR":
                lr.setdefault(scale, {})[name] = file
                continue
            own_hr.setdefault(scale, {})[name] = file
            if name not in hr or _area(file) > _area(hr[name]):
                hr[name] = file
    if hr:
        name = folder.resolve().name
        yield Layout(name, "SelfExSR", dict(sorted(hr.items())), lr, own_hr)


def _area(file: Path) -> int:
    height, width = image_size(file)
    return height * width


# MERGED sr_nas.data.layouts: Where the images of a benchmark set lie, given its folder as people keep it.


HR_FOLDERS = ("HR", "GT", "GTmod12", "original")
LR_FOLDERS = ("LR_matlab/x{}", "LR_matlab/X{}", "LR_bicubic/X{}", "LR_bicubic/x{}", "LR/x{}", "LR/X{}", "LRbicx{}")
BESIDE = "../{}_LR/x{}"
"""Where LR images lie for a folder that holds HR images itself, with the name of that folder and the scale (IMDN's)."""


def resolve_set(path: Path, scale: int, lr: Path | None = None) -> tuple[str, Path, Path | None]:
    """Return ``(name, HR folder, LR folder or None)`` of a benchmark set.

    Args:
        path: a folder that holds the HR images itself, perhaps with the LR images beside it in ``../<name>_LR/x<scale>``, or
            that holds a folder ``HR``, ``GT``, ``GTmod12`` or ``original`` of them and perhaps the LR images in
            ``LR_matlab/x<scale>``, ``LR_bicubic/x<scale>`` or ``LR/x<scale>``, with ``x`` or ``X``, or in ``LRbicx<scale>``.
        scale: HR pixels per LR pixel and side.
        lr: the LR folder, where it is none of these.

    Returns:
        The name is that of the folder, or of the one above where the folder itself is called ``HR``, ``GT``, ``GTmod12``
        or ``original``. LR is ``None`` where none is found; it is then made from HR.

    Raises:
        UserError: a folder does not exist, or holds nothing of this.
    """
    for folder in filter(None, (path, lr)):
        if not folder.is_dir():
            raise UserError(f"{folder} is a file, not a folder." if folder.exists() else describe_missing(folder, "folder"))
    place = path.resolve()
    for hr_name in HR_FOLDERS:
        if (path / hr_name).is_dir():
            candidates = [path / template.format(scale) for template in LR_FOLDERS]
            return place.name, path / hr_name, lr or next((folder for folder in candidates if folder.is_dir()), None)
    try:
        list_images(path)
    except UserError as error:
        raise UserError(
            f"{path} is no benchmark set. It has no folder of HR images ({listing(HR_FOLDERS)}), beside which LR images may lie "
            f"({listing(template.format(scale) for template in LR_FOLDERS)}), and is none itself: {error}"
            + f" It is in SelfExSR's layout: sr-nas prepare_data SET --from {path} makes this one of it."
            * any(path.glob("image_SRF_*"))
        ) from error
    beside = place / BESIDE.format(place.name, scale)
    found = lr or (beside.resolve() if beside.is_dir() else None)
    return place.parent.name if place.name in HR_FOLDERS else place.name, path, found
