"""Images in folders: HR alone, or HR and LR paired by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from sr_nas.data.files import file_pairs
from sr_nas.data.pairing import by_stem, check_template, match_names, naming_rules
from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.images.files import list_images
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import PAIRS


@PAIRS.register("folder")
def folder(
    dataroot_gt: ExistingFolder,
    dataroot_lq: ExistingFolder | None = None,
    filename_tmpl: Annotated[str, AfterValidator(check_template)] = "{}",
    *,
    scale: int,
) -> Pairs:
    """A folder of HR images, with or without a folder of LR images.

    Args:
        dataroot_gt: folder of the HR images.
        dataroot_lq: folder of the LR images. Without it LR is made from HR as MATLAB's bicubic ``imresize`` does, and
            kept in the disk cache.
        filename_tmpl: LR name for an HR name ``{}``, both without extension. By default LR has the name of HR, or that
            and ``x<scale>`` (``0001x2``).
        scale: HR pixels per LR pixel and side.

    Raises:
        UserError: a folder has no images, or two of one name, or HR and LR do not pair up.
    """
    hr = by_stem(list_images(Path(dataroot_gt)))
    if dataroot_lq is None:
        if filename_tmpl != "{}":
            raise UserError(f"filename_tmpl '{filename_tmpl}' names LR images, but no dataroot_lq says where they lie.")
        return file_pairs(hr, list(hr.values()), None, scale)
    lr = by_stem(list_images(Path(dataroot_lq)))
    matched = match_names(list(hr), list(lr), naming_rules(filename_tmpl, scale), dataroot_gt, dataroot_lq)
    return file_pairs(hr, list(hr.values()), [lr[name] for name in matched], scale)
