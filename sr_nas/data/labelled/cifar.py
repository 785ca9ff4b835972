"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), as unpacked from their official archives of Python pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from sr_nas.data.array_pickles import read_arrays
from sr_nas.data.classes import Labelled, Statistics
from sr_nas.options.paths import ExistingFolder
from sr_nas.registry import LABELLED

Part = Literal["train", "test"]
SOURCE = "CIFAR, which tools/prepare_data.py fetches"

CIFAR10_STATISTICS: tuple[Statistics, Statistics] = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STATISTICS: tuple[Statistics, Statistics] = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


@LABELLED.register()
def cifar10(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """Read ``data_batch_1`` to ``data_batch_5`` or ``test_batch``, of 10,000 images each, from ``cifar-10-batches-py``.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = _folder(Path(dataroot), "cifar-10-batches-py")
    names = [f"data_batch_{number}" for number in range(1, 6)] if part == "train" else ["test_batch"]
    batches = [read_arrays(folder / name, "labels", SOURCE) for name in names]
    classes = read_arrays(folder / "batches.meta", "label_names", SOURCE)["label_names"]
    return _labelled(batches, "labels", classes, CIFAR10_STATISTICS)


@LABELLED.register()
def cifar100(part: Part, *, dataroot: ExistingFolder) -> Labelled:
    """Read ``train`` or ``test`` from ``cifar-100-python``, with the 100 fine labels.

    Raises:
        UserError: a file is missing or damaged.
    """
    folder = _folder(Path(dataroot), "cifar-100-python")
    classes = read_arrays(folder / "meta", "fine_label_names", SOURCE)["fine_label_names"]
    return _labelled([read_arrays(folder / part, "fine_labels", SOURCE)], "fine_labels", classes, CIFAR100_STATISTICS)


def _folder(root: Path, inside: str) -> Path:
    return root / inside if (root / inside).is_dir() else root


def _labelled(batches: list[dict[str, Any]], key: str, classes: list[str], known: tuple[Statistics, Statistics]) -> Labelled:
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = [int(label) for batch in batches for label in batch[key]]
    return Labelled(labels, tuple(classes), np.ascontiguousarray(pixels).__getitem__, *known)
