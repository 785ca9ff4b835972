"""Labelled images and what is drawn from them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.classification.labelled import Labelled, LabelledDataset, statistics
from sr_nas.errors import UserError
from sr_nas.registry import LABELLED

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def labelled() -> Labelled:
    return Labelled(LABELS.tolist(), ("a", "b", "c"), PIXELS.__getitem__, *statistics(PIXELS))


def archive(tmp_path: Path, **changed: object) -> Path:
    content = {
        "x_train": PIXELS,
        "y_train": LABELS,
        "x_test": PIXELS[:2],
        "y_test": LABELS[:2],
        "classes": np.array(["a", "b", "c"]),
    }
    np.savez(tmp_path / "images.npz", **{key: value for key, value in (content | changed).items() if value is not None})
    return tmp_path / "images.npz"


def test_statistics_are_numpys() -> None:
    mean, std = statistics(PIXELS)
    assert mean == pytest.approx((PIXELS / 255).mean((0, 1, 2)).tolist(), abs=1e-12)
    assert std == pytest.approx((PIXELS / 255).std((0, 1, 2)).tolist(), abs=1e-12)


def test_without_augmentation_images_are_normalised() -> None:
    dataset = LabelledDataset(labelled())
    images = torch.stack([dataset[index, index][0] for index in range(6)])
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert images.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert [dataset[index, 0][1].item() for index in range(6)] == LABELS.tolist()


def test_a_crop_is_a_window_of_the_padded_image_mirrored_or_not() -> None:
    plain, dataset = LabelledDataset(labelled()), LabelledDataset(labelled(), crop_padding=2, use_hflip=True, seed=3)
    black = (torch.zeros(3) - torch.tensor(labelled().mean)) / torch.tensor(labelled().std)
    seen = set()
    for draw in range(500):
        found = dataset[1, draw][0]
        image = plain[1, 0][0]
        padded = {flip: black[:, None, None].expand(3, 12, 12).clone() for flip in (False, True)}
        padded[False][:, 2:10, 2:10], padded[True][:, 2:10, 2:10] = image, image.flip(2)
        places = [
            (flip, top, left)
            for flip, whole in padded.items()
            for top in range(5)
            for left in range(5)
            if torch.allclose(whole[:, top : top + 8, left : left + 8], found)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 2 * 5 * 5, "all windows, mirrored and not"


def test_cutout_sets_a_square_to_the_mean() -> None:
    dataset, plain = LabelledDataset(labelled(), cutout=4), LabelledDataset(labelled())
    areas = set()
    for draw in range(400):
        changed = (dataset[0, draw][0] != plain[0, draw][0]).any(0)
        assert (dataset[0, draw][0][:, changed] == 0).all()
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        assert changed.sum() == len(rows) * len(columns), "a rectangle"
        areas.add(int(changed.sum()))
    assert max(areas) == 16 and min(areas) == 4, "a border may cut a square down to a quarter"


def test_a_sample_depends_on_seed_and_draw_alone() -> None:
    options = {"crop_padding": 2, "use_hflip": True, "cutout": 4}
    first, again, other = (LabelledDataset(labelled(), **options, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[2, 5][0], again[2, 5][0])
    assert not torch.equal(first[2, 5][0], other[2, 5][0]) and not torch.equal(first[2, 5][0], first[2, 6][0])


def test_npz(tmp_path: Path) -> None:
    read = LABELLED.get("npz")
    train, test = (read(part, dataroot=str(archive(tmp_path))) for part in ("train", "test"))
    assert (len(train), len(test), train.classes) == (6, 2, ("a", "b", "c"))
    assert np.array_equal(train.read(4), PIXELS[4]) and train.mean == test.mean == statistics(PIXELS)[0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": PIXELS.astype(np.float32)}, r"x_train must be uint8"),
        ({"y_train": LABELS[:3]}, "y_train must be 6 integers"),
        ({"y_train": LABELS + 1}, "names classes 1 to 3, and there are 3"),
    ],
)
def test_wrong_archives_are_refused(tmp_path: Path, changed: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        LABELLED.get("npz")("train", dataroot=str(archive(tmp_path, **changed)))


def test_cifar_from_its_official_form(tmp_path: Path) -> None:
    """Rows of 3,072 values: all red ones, then green, then blue."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (10, 3072), dtype=np.uint8)
    for number in range(5):
        (folder / f"data_batch_{number + 1}").write_bytes(
            pickle.dumps({"data": pixels[2 * number : 2 * number + 2], "labels": [number, 9 - number]}, protocol=2)
        )
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(digit) for digit in range(10)]}, protocol=2))
    found = LABELLED.get("cifar10")("train", dataroot=str(tmp_path))
    assert found.labels == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    image = found.read(7)
    assert image.shape == (32, 32, 3) and image[1, 2].tolist() == pixels[7, [34, 1024 + 34, 2048 + 34]].tolist()
    with pytest.raises(UserError, match="test_batch does not exist"):
        LABELLED.get("cifar10")("test", dataroot=str(tmp_path))


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("run",))

    (tmp_path / "train").write_bytes(pickle.dumps({"data": PIXELS, "fine_labels": Evil()}))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"]}))
    with pytest.raises(UserError, match=r"asks for builtins\.print"):
        LABELLED.get("cifar100")("train", dataroot=str(tmp_path))
