"""ImageNet16-120 of NAS-Bench-201: the first 120 classes of ImageNet at 16x16 pixels (Chrabaszcz et al., arXiv 1707.08819)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from sr_nas.data.array_pickles import read_arrays
from sr_nas.data.classes import Labelled, Statistics
from sr_nas.errors import UserError
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import LABELLED

SOURCE = "ImageNet16, the 16x16 form of Downsampled ImageNet"
BATCHES = {"train": tuple(f"train_data_batch_{number}" for number in range(1, 11)), "test": ("val_data",)}
SIDE = 16

# Those by which the benchmark's networks were trained.
STATISTICS: tuple[Statistics, Statistics] = (
    (122.68 / 255, 116.66 / 255, 104.01 / 255),
    (63.22 / 255, 61.26 / 255, 65.09 / 255),
)


@LABELLED.register()
def imagenet16(
    part: Literal["train", "test"], *, dataroot: ExistingFolder, num_classes: Annotated[int, Field(ge=2, le=1000)] = 120
) -> Labelled:
    """Read the first classes from ``train_data_batch_1`` to ``train_data_batch_10`` or ``val_data``; they are named by number.

    Raises:
        UserError: a file is missing or damaged, or holds images of another size.
    """
    pixels, labels = [], []
    for name in BATCHES[part]:
        file = Path(dataroot) / name
        batch = read_arrays(file, "labels", SOURCE)
        data, numbers = np.asarray(batch.get("data")), np.asarray(batch["labels"])
        if data.dtype != np.uint8 or data.shape != (len(numbers), 3 * SIDE**2):
            raise UserError(
                f"{file} must hold {len(numbers)} images of {SIDE}x{SIDE} pixels, uint8 [{len(numbers)}, {3 * SIDE**2}], "
                f"not {data.dtype} {list(data.shape)}."
            )
        # Numbered from 1.
        kept = numbers <= num_classes
        pixels.append(data[kept])
        labels += (numbers[kept] - 1).tolist()
    images = np.concatenate(pixels).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    classes = tuple(str(number) for number in range(1, num_classes + 1))
    return Labelled(labels, classes, np.ascontiguousarray(images).__getitem__, *STATISTICS)
