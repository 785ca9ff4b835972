"""Where the images of a benchmark set lie, given its folder as people keep it."""

from __future__ import annotations

from pathlib import Path

from sr_nas.errors import UserError, listing
from sr_nas.images.files import list_images
from sr_nas.options.paths import describe_missing

HR_FOLDERS = ("HR", "GT", "original")
LR_FOLDERS = ("LR_matlab/x{}", "LR_bicubic/X{}", "LR/x{}")


def resolve_set(path: Path, scale: int, lr: Path | None = None) -> tuple[str, Path, Path | None]:
    """Return ``(name, HR folder, LR folder or None)`` of a benchmark set.

    Args:
        path: a folder that holds the HR images itself, or that holds a folder ``HR``, ``GT`` or ``original`` of them and
            perhaps the LR images in ``LR_matlab/x<scale>``, ``LR_bicubic/X<scale>`` or ``LR/x<scale>``.
        scale: HR pixels per LR pixel and side.
        lr: the LR folder, where it is none of these.

    Returns:
        The name is that of the folder, or of the one above where the folder itself is called ``HR``, ``GT`` or
        ``original``. LR is ``None`` where none is found; it is then made from HR.

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
        ) from error
    return place.parent.name if place.name in HR_FOLDERS else place.name, path, lr
