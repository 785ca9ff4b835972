"""Images in folders: HR alone, or HR and LR paired by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sr_nas.data.files import file_pairs
from sr_nas.data.pairing import by_stem, check_template, match_names, naming_rules
from sr_nas.data.pairs import Pairs
from sr_nas.data.pixel_cache import PixelCache
from sr_nas.errors import UserError, listing
from sr_nas.images.files import list_images
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import PAIRS


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Folders = Annotated[
    list[ExistingFolder],
    Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=ExistingFolder | list[ExistingFolder]),
]
"""Folders whose images are read as one set; an option file may name a single one without brackets."""

_TEMPLATE = ", or set filename_tmpl to the names' pattern, such as '{}_lr'"


@PAIRS.register("folder")
def folder(
    dataroot_gt: Folders,
    dataroot_lq: Folders | None = None,
    filename_tmpl: Annotated[str, AfterValidator(check_template)] = "{}",
    cache: PixelCache = False,
    *,
    scale: int,
) -> Pairs:
    """Folders of HR images, with or without folders of LR images.

    Args:
        dataroot_gt: folder or folders of the HR images.
        dataroot_lq: folders of the LR images, one per HR folder. Without them LR is made from HR as MATLAB's bicubic
            ``imresize`` does, and kept in the disk cache.
        filename_tmpl: LR name for an HR name ``{}``, both without extension. By default LR has the name of HR, or that
            and ``x<scale>`` (``0001x2``).
        cache: keep the decoded pixels of both on disk, 3 bytes a pixel, and read patches from there instead of decoding an
            image for each: ``true`` in the cache folder, a path in that folder. Worth it for sets that do not fit into memory.
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: a folder has no images or two of one name, HR and LR do not pair up, or the cache cannot be used.
    """
    if len({Path(place).resolve() for place in dataroot_gt}) != len(dataroot_gt):
        raise UserError(f"dataroot_gt names one folder twice: {listing(dataroot_gt)}.")
    if dataroot_lq is None:
        if filename_tmpl != "{}":
            raise UserError(f"filename_tmpl '{filename_tmpl}' names LR images, but no dataroot_lq says where they lie.")
        files = [file for place in dataroot_gt for file in _images(place).values()]
        return file_pairs(_names(files), files, None, scale, cache)
    if len(dataroot_lq) != len(dataroot_gt):
        raise UserError(
            f"dataroot_gt names {len(dataroot_gt)} folders, dataroot_lq {len(dataroot_lq)}: they go together one by one."
        )
    hr_files, lr_files = [], []
    for hr_place, lr_place in zip(dataroot_gt, dataroot_lq, strict=True):
        hr, lr = _images(hr_place), _images(lr_place)
        matched = match_names(list(hr), list(lr), naming_rules(filename_tmpl, scale), hr_place, lr_place, _TEMPLATE)
        hr_files += list(hr.values())
        lr_files += [lr[name] for name in matched]
    return file_pairs(_names(hr_files), hr_files, lr_files, scale, cache)


def _names(files: list[Path]) -> list[str]:
    """What to call the images: their names without extension, or their paths where two folders have one of a name."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file.with_suffix("")) for file in files]


def _images(place: str) -> dict[str, Path]:
    return by_stem(list_images(Path(place)))
