"""Layouts of published image sets: which files of a folder are HR images, and which LR images of what scale."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sr_nas.data.pairs import by_stem
from sr_nas.errors import UserError, listing
from sr_nas.images.files import image_size, list_images
from sr_nas.options.strict import describe_missing

SCALES = (2, 3, 4, 8)
"""Scales of which LR images are published."""
HR_FOLDERS = ("HR", "GT", "GTmod12", "original")
LR_FOLDERS = ("LR_matlab/x{}", "LR_matlab/X{}", "LR_bicubic/X{}", "LR_bicubic/x{}", "LR/x{}", "LR/X{}", "LRbicx{}")
_SELFEXSR = re.compile(r"(.+)_SRF_(\d+)_(HR|LR)")


@dataclass(frozen=True)
class ImageSet:
    """The image files of one set.

    Attributes:
        name: of the set.
        hr: name -> HR image.
        lr: scale -> file name without extension -> LR image.
        hr_of_scale: scale -> name -> HR image that was cropped for this scale, in sets that have one for each.
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
        UserError: the folder is missing, or of none of these; the text lists what was tried. Or two images have one name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder." if folder.exists() else describe_missing(folder, "folder"))
    scales = list(scales)
    return list(_div2k(folder, scales)) or list(_selfexsr(folder, scales)) or [_benchmark(folder, scales)]


def _images_by_scale(places: dict[int, list[Path]]) -> dict[int, dict[str, Path]]:
    first = {scale: next((place for place in folders if place.is_dir()), None) for scale, folders in places.items()}
    return {scale: by_stem(list_images(place)) for scale, place in first.items() if place is not None}


def _div2k(folder: Path, scales: list[int]) -> Iterator[ImageSet]:
    hr_folder = re.fullmatch(r"DIV2K_(\w+)_HR", folder.resolve().name)
    root = folder.resolve().parent if hr_folder else folder
    for split in (hr_folder[1],) if hr_folder else ("train", "valid", "test"):
        hr = root / f"DIV2K_{split}_HR"
        if hr.is_dir():
            lr = _images_by_scale({scale: [root / f"DIV2K_{split}_LR_bicubic" / f"X{scale}"] for scale in scales})
            yield ImageSet(f"DIV2K_{split}", by_stem(list_images(hr)), lr)


def _selfexsr(folder: Path, scales: list[int]) -> Iterator[ImageSet]:
    """HR is cropped at its right and lower border, differently for each scale; the largest crop is the HR image."""
    images: dict[str, dict[int, dict[str, Path]]] = {"HR": {}, "LR": {}}
    for scale in scales:
        place = folder / f"image_SRF_{scale}"
        for file in list_images(place) if place.is_dir() else []:
            parsed = _SELFEXSR.fullmatch(file.stem)
            if parsed is not None and int(parsed[2]) == scale:  # results lie beside them: img_001_SRF_2_bicubic.png
                images[parsed[3]].setdefault(scale, {})[parsed[1]] = file
    hr: dict[str, Path] = {}
    for crops in images["HR"].values():
        for name, file in crops.items():
            if name not in hr or _area(file) > _area(hr[name]):
                hr[name] = file
    if hr:
        yield ImageSet(folder.resolve().name, dict(sorted(hr.items())), images["LR"], images["HR"])


def _area(file: Path) -> int:
    height, width = image_size(file)
    return height * width


def _benchmark(folder: Path, scales: list[int]) -> ImageSet:
    place = folder.resolve()
    for hr in (folder / name for name in HR_FOLDERS):
        if hr.is_dir():
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
