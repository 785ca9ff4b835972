"""A NumPy archive of images that all have one size."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from sr_nas.data.classes import Labelled, statistics
from sr_nas.errors import UserError, listing
from sr_nas.options.paths import ExistingFile
from sr_nas.registry import LABELLED

KEYS = ("x_train", "y_train", "x_test", "y_test", "classes")


@LABELLED.register()
def npz(part: Literal["train", "test"], *, dataroot: ExistingFile) -> Labelled:
    """Read an ``.npz`` with ``x_train`` and ``x_test``, uint8 [N, H, W, 3], ``y_train`` and ``y_test``, [N], and ``classes``.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    path = Path(dataroot)
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {key: stored[key] for key in KEYS if key in stored}
    except (OSError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read as .npz ({error}).") from error
    if missing := [key for key in KEYS if key not in found]:
        raise UserError(f"{path} lacks {listing(missing)}; an archive of labelled images holds {listing(KEYS)}.")
    classes = tuple(map(str, found["classes"].tolist()))
    for name in ("train", "test"):
        images, labels = found[f"x_{name}"], found[f"y_{name}"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"{path}: x_{name} must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}.")
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"{path}: y_{name} must be {len(images)} integers, not {labels.dtype} {list(labels.shape)}.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise UserError(f"{path}: y_{name} names classes {labels.min()} to {labels.max()}, and there are {len(classes)}.")
    return Labelled(found[f"y_{part}"].tolist(), classes, found[f"x_{part}"].__getitem__, *statistics(found["x_train"]))
