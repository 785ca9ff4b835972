"""Folders of image sets: which files are HR images, which are LR images of what scale, and which belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sr_nas.errors import UserError, listing
from sr_nas.images.files import image_size
from sr_nas.images.folders import is_folder, list_images
from sr_nas.options.strict import describe_missing

SCALES = (2, 3, 4, 8)
"""Scales of which LR images are published."""
HR_FOLDERS = ("HR", "GT", "GTmod12", "original")
LR_FOLDERS = ("LR_matlab/x{}", "LR_matlab/X{}", "LR_bicubic/X{}", "LR_bicubic/x{}", "LR/x{}", "LR/X{}", "LRbicx{}")
_META_INFO_LINE = re.compile(r"(.*\S)\.\w+(?: \((\d+),(\d+),\d+\)(?: \d+)?)?")
_SELFEXSR = re.compile(r"(.+)_SRF_(\d+)_(HR|LR)")


@dataclass(frozen=True)
class ImageSet:
    """The image files of one set.

    Attributes:
        hr: name -> HR image.
        lr: scale -> file name without extension -> LR image.
        hr_of_scale: scale -> name -> HR image cropped for this scale, in sets that have one for each.
    """

    name: str
    hr: dict[str, Path]
    lr: dict[int, dict[str, Path]]
    hr_of_scale: dict[int, dict[str, Path]] = field(default_factory=dict)

    def hr_at(self, scale: int) -> dict[str, Path]:
        """Return name -> HR image from which the LR image of this scale was made."""
        return self.hr | self.hr_of_scale.get(scale, {})


def find_sets(folder: Path, scales: Iterable[int] = SCALES) -> list[ImageSet]:
    """Return the sets in a folder, with their LR images of these scales: one set, or the splits of DIV2K.

    Layouts:
        - DIV2K: ``DIV2K_train_HR``, ``DIV2K_train_LR_bicubic/X2``; ``folder`` may be the HR folder itself.
        - SelfExSR: ``image_SRF_2/img_001_SRF_2_HR.png`` and ``..._LR.png``.
        - BasicSR, EDSR and this project: HR in :data:`HR_FOLDERS`, LR in :data:`LR_FOLDERS`.
        - IMDN: HR in ``folder`` itself, LR in ``../<name>_LR/x<scale>``; or a plain folder of images, without LR.

    Raises:
        UserError: the folder is missing, or of none of these; the text lists what was tried. Or two images have one name, or a
            folder of these is there but cannot be read.
    """
    if not is_folder(folder):
        raise UserError(f"{folder} is a file, not a folder." if folder.exists() else describe_missing(folder, "folder"))
    scales = list(scales)
    return list(_div2k(folder, scales)) or list(_selfexsr(folder, scales)) or [_benchmark(folder, scales)]


def _images_by_scale(places: dict[int, list[Path]]) -> dict[int, dict[str, Path]]:
    first = {scale: next(filter(is_folder, folders), None) for scale, folders in places.items()}
    return {scale: by_stem(list_images(place)) for scale, place in first.items() if place is not None}


def _div2k(folder: Path, scales: list[int]) -> Iterator[ImageSet]:
    hr_folder = re.fullmatch(r"DIV2K_(\w+)_HR", folder.resolve().name)
    root = folder.resolve().parent if hr_folder else folder
    for split in (hr_folder[1],) if hr_folder else ("train", "valid", "test"):
        hr = root / f"DIV2K_{split}_HR"
        if is_folder(hr):
            lr = _images_by_scale({scale: [root / f"DIV2K_{split}_LR_bicubic" / f"X{scale}"] for scale in scales})
            yield ImageSet(f"DIV2K_{split}", by_stem(list_images(hr)), lr)


def _selfexsr(folder: Path, scales: list[int]) -> Iterator[ImageSet]:
    """HR is cropped at its right and lower border, differently for each scale; the largest crop is the HR image."""
    images: dict[str, dict[int, dict[str, Path]]] = {"HR": {}, "LR": {}}
    for scale in scales:
        place = folder / f"image_SRF_{scale}"
        for file in list_images(place) if is_folder(place) else []:
            parsed = _SELFEXSR.fullmatch(file.stem)
            if parsed is not None and int(parsed[2]) == scale:  # results lie beside them: img_001_SRF_2_bicubic.png
                images[parsed[3]].setdefault(scale, {})[parsed[1]] = file
    names = sorted({name for crops in images["HR"].values() for name in crops})
    hr = {name: max((crops[name] for crops in images["HR"].values() if name in crops), key=_area) for name in names}
    if hr:
        yield ImageSet(folder.resolve().name, hr, images["LR"], images["HR"])


def _area(file: Path) -> int:
    height, width = image_size(file)
    return height * width


def _benchmark(folder: Path, scales: list[int]) -> ImageSet:
    place = folder.resolve()
    for hr in (folder / name for name in HR_FOLDERS):
        if is_folder(hr):
            lr = _images_by_scale({scale: [folder / name.format(scale) for name in LR_FOLDERS] for scale in scales})
            return ImageSet(place.name, by_stem(list_images(hr)), lr)
    try:
        images = by_stem(list_images(folder))
    except UserError as error:
        raise UserError(
            f"{folder} is no image set of a known layout. It has no folder of HR images ({listing(HR_FOLDERS)}), beside which LR "
            f"images may lie ({listing(name.format(2) for name in LR_FOLDERS)}); it is neither DIV2K (DIV2K_train_HR, "
            f"DIV2K_train_LR_bicubic/X2) nor SelfExSR (image_SRF_2/img_001_SRF_2_HR.png); and it holds no HR images: {error}"
        ) from error
    lr = _images_by_scale({scale: [place.parent / f"{place.name}_LR" / f"x{scale}"] for scale in scales})
    return ImageSet(place.parent.name if place.name in HR_FOLDERS else place.name, images, lr)


def naming_rules(filename_tmpl: str, scale: int) -> list[str]:
    """Return templates of LR names, ``{}`` being the HR name: ``filename_tmpl``, or by default DIV2K's ``{}x2`` as well."""
    return [filename_tmpl] if filename_tmpl != "{}" else ["{}", "{}x" + str(scale)]


def check_template(template: str) -> str:
    """Return ``template`` if it holds ``{}`` exactly once and no other brace; otherwise a ValueError is raised."""
    if template.count("{}") != 1 or set(template.replace("{}", "")) & set("{}"):
        raise ValueError(f"'{template}' must hold {{}} once, for the name of HR without extension (such as '{{}}_lr')")
    return template


def common_scale(names: Iterable[str]) -> int | None:
    """Return the scale that all names end in, as those of DIV2K's LR images do (``0001x2``), if there is one."""
    ends = {parsed[1] if (parsed := re.fullmatch(r".+x([2-9]|1[0-6])", name)) else None for name in names}
    end = ends.pop() if len(ends) == 1 else None
    return int(end) if end else None


def by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Return name without extension -> file, in the order of ``files``; a UserError if two files share a name."""
    named: dict[str, Path] = {}
    for file in files:
        if (other := named.setdefault(file.stem, file)) is not file:
            raise UserError(
                f"{other} and {file} have the same name but for the extension, and pairs are told apart by name. "
                "Remove or rename one."
            )
    return named


class Pairing(NamedTuple):
    """HR names -> LR names by a naming rule, and the names on either side that it leaves without a partner."""

    rule: str
    lr_of: dict[str, str]
    without_lr: list[str]
    without_hr: list[str]


def pair_up(hr: Sequence[str], lr: Sequence[str], rules: Sequence[str]) -> Pairing:
    """Pair names by the rule that pairs most of them; among equals, by the first."""
    lr_names = set(lr)
    rule = max(rules, key=lambda rule: len({rule.format(name) for name in hr} & lr_names))
    lr_of = {name: rule.format(name) for name in hr if rule.format(name) in lr_names}
    unpaired_lr = lr_names - set(lr_of.values())
    return Pairing(rule, lr_of, [name for name in hr if name not in lr_of], [name for name in lr if name in unpaired_lr])


def match_names(
    hr: Sequence[str], lr: Sequence[str], rules: Sequence[str], hr_folder: str, lr_folder: str, remedy: str = ""
) -> list[str]:
    """Return the LR name of every HR name, by the first rule that pairs all names of both sides.

    If none does, a UserError reports on the rule that pairs most, with the folders and ``remedy``, further advice.
    """
    rule, lr_of, without_lr, without_hr = pair_up(hr, lr, rules)
    if not without_lr and not without_hr:
        return [lr_of[name] for name in hr]
    tried = ", ".join(f"'{rule}'" for rule in rules)
    lines = [
        "HR and LR images do not pair up.",
        f"  HR: {len(hr)} images in {hr_folder}",
        f"  LR: {len(lr)} images in {lr_folder}",
        f"  HR without LR: {len(without_lr)}" + (f" ({listing(without_lr, 10)})" if without_lr else ""),
        f"  LR without HR: {len(without_hr)}" + (f" ({listing(without_hr, 10)})" if without_hr else ""),
        f"  names of LR tried, {{}} being the name of HR: {tried}; counted by '{rule}'",
        f"Check that both are of the same set and scale{remedy}.",
    ]
    raise UserError("\n".join(lines))


def read_meta_info(file: Path, strip_folders: bool = True) -> dict[str, tuple[int, int] | None]:
    """Read BasicSR's list of images, one a line: ``0001_s001.png (480,480,3)``, in LMDB followed by the PNG compression.

    Returns:
        Name without extension, and without folders if ``strip_folders`` -> height and width, or ``None`` without them.

    Raises:
        UserError: the file cannot be read, a line is of another form, or a name is there twice.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list {file} cannot be read: {error}.") from error
    sizes: dict[str, tuple[int, int] | None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parsed = _META_INFO_LINE.fullmatch(line.rstrip())
        if parsed is None:
            raise UserError(f"{file}, line {number}: '{line}' is not of the form '0001_s001.png (480,480,3)'.")
        name = PurePosixPath(parsed[1]).name if strip_folders else parsed[1]
        if name in sizes:
            raise UserError(f"{file}, line {number}: '{name}' is listed twice.")
        sizes[name] = (int(parsed[2]), int(parsed[3])) if parsed[2] else None
    return sizes
