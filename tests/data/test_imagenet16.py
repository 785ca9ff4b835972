"""ImageNet16-120 from the pickles of Downsampled ImageNet."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from sr_nas.classification.datasets import BATCHES
from sr_nas.errors import UserError
from sr_nas.registry import LABELLED

READ = LABELLED.get("imagenet16")


def make(root: Path, protocol: int = 2) -> np.ndarray:
    """Images of classes 1, 120, 121 and 1000 in every file, whose labels begin at 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 4, 768), dtype=np.uint8)
    for data, name in zip(pixels, [*BATCHES["train"], *BATCHES["test"]], strict=True):
        content = {"data": data, "labels": [1, 120, 121, 1000], "mean": data.mean(0)}
        (root / name).write_bytes(pickle.dumps(content, protocol))
    return pixels


@pytest.mark.parametrize("protocol", [2, 5])
def test_the_first_120_classes_are_kept(tmp_path: Path, protocol: int) -> None:
    pixels = make(tmp_path, protocol)
    train, test = (READ(part, dataroot=str(tmp_path)) for part in ("train", "test"))
    assert (train.labels, test.labels) == ([0, 119] * 10, [0, 119])
    assert len(train.classes) == 120
    image = train.read(3)
    assert image.shape == (16, 16, 3)
    assert image[2, 5].tolist() == pixels[1, 1, [37, 256 + 37, 512 + 37]].tolist()
    np.testing.assert_array_equal(test.read(1)[..., 0].ravel(), pixels[10, 1, :256])
    assert READ("test", dataroot=str(tmp_path), num_classes=1000).labels == [0, 119, 120, 999]


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    wide = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}
    (tmp_path / "val_data").write_bytes(pickle.dumps(wide))
    with pytest.raises(UserError, match=r"16x16 pixels, uint8 \[2, 768\], not uint8 \[2, 3072\]"):
        READ("test", dataroot=str(tmp_path))
    (tmp_path / "val_data").write_bytes(pickle.dumps(wide)[:-200])
    with pytest.raises(UserError, match="damaged or no part of ImageNet16"):
        READ("test", dataroot=str(tmp_path))
    (tmp_path / "train_data_batch_10").unlink()
    with pytest.raises(UserError, match="train_data_batch_10 does not exist"):
        READ("train", dataroot=str(tmp_path))
