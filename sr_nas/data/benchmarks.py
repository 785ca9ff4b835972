"""Where the images of a benchmark set lie, given its folder as people keep it."""

from __future__ import annotations

from pathlib import Path

from sr_nas.errors import UserError, listing
from sr_nas.images.files import list_images
from sr_nas.options.paths import describe_missing

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
