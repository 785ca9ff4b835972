"""Images in a folder for each class, from files to normalised tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.classification.labelled import LabelledDataset
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.registry import LABELLED

READ = LABELLED.get("image_folder")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three cats, one dog and one bee to train on, one dog to test, all of different sizes."""
    generator = np.random.default_rng(0)
    names = ["train/cat/a.png", "train/cat/b.JPEG", "train/cat/deep/c.png", "train/dog/a.png", "train/bee/a.png", "val/dog/a.png"]
    for number, name in enumerate(names):
        write_image(tmp_path / name, generator.integers(0, 256, (40 + 7 * number, 70 - 5 * number, 3), np.uint8))
    for name in ("train/cat/._a.png", "train/cat/notes.txt", "train/.cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_classes_and_order(root: Path) -> None:
    """Numbered by name, and in rounds, so that the first three images are of three classes."""
    train, test = READ("train", dataroot=str(root)), READ("test", dataroot=str(root))
    assert train.classes == test.classes == ("bee", "cat", "dog")
    assert (train.labels, test.labels) == ([0, 1, 2, 1, 1], [2])
    files = ["bee/a.png", "cat/a.png", "dog/a.png", "cat/b.JPEG", "cat/deep/c.png"]
    for index, name in enumerate(files):
        np.testing.assert_array_equal(train.read(index), read_rgb(root / "train" / name))


def test_images_of_all_sizes_become_one_and_training_is_addressed(root: Path) -> None:
    train = pickle.loads(pickle.dumps(READ("train", dataroot=str(root), size=32)))
    first, again, other = (LabelledDataset(train, 4, True, 8, seed=seed) for seed in (1, 1, 2))
    for index in range(5):
        assert first[index, 3][0].shape == (3, 32, 32)
        assert torch.equal(first[index, 3][0], again[index, 3][0])
        assert not torch.equal(first[index, 3][0], other[index, 3][0])
        assert not torch.equal(first[index, 3][0], first[index, 4][0])


def test_images_to_test_with_are_the_same_in_every_draw(root: Path) -> None:
    test = READ("test", dataroot=str(root), size=32)
    image, label = LabelledDataset(test)[0, 0]
    assert torch.equal(image, LabelledDataset(test, seed=5)[0, 9][0]) and label == 2
    pixels = (image * torch.tensor(test.std)[:, None, None] + torch.tensor(test.mean)[:, None, None]) * 255
    assert test.view is not None
    np.testing.assert_allclose(pixels.permute(1, 2, 0), test.view(test.read(0), np.random.default_rng()), atol=1e-3)


def test_without_train_the_classes_are_those_of_the_part(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")
    (root / "val").rename(root / "test")
    found = READ("test", dataroot=str(root))
    assert (found.classes, found.labels) == (("dog",), [0])


def test_layouts_that_are_none(root: Path) -> None:
    (root / "val/eel").mkdir()
    with pytest.raises(UserError, match=r"val has classes that .*train has not: eel"):
        READ("test", dataroot=str(root))
    (root / "train/eel").mkdir()
    with pytest.raises(UserError, match=r"no image in .*train/eel"):
        READ("train", dataroot=str(root))
    with pytest.raises(UserError, match="has no folder val, test"):
        READ("test", dataroot=str(root / "train"))
    (root / "flat/val").mkdir(parents=True)
    write_image(root / "flat/val/ILSVRC2012_val_00000001.JPEG", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="holds no folders"):
        READ("test", dataroot=str(root / "flat"))
