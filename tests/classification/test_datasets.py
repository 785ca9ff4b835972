"""Labelled images and what is drawn from them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sr_nas.classification.datasets import Labelled, LabelledDataset, statistics
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.registry import LABELLED

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
read_folder = LABELLED.get("image_folder")
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


def test_arrays_are_known_by_their_number_and_classes() -> None:
    names = [list(images.names) for images in (labelled(), labelled(), labelled().first(2))]
    assert names[0] == names[1] != names[2] and len(names[0]) == 1
    assert list(replace(labelled(), labels=LABELS[::-1].tolist()).names) not in names


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
        result = dataset[1, draw][0]
        image = plain[1, 0][0]
        padded = {flip: black[:, None, None].expand(3, 12, 12).clone() for flip in (False, True)}
        padded[False][:, 2:10, 2:10], padded[True][:, 2:10, 2:10] = image, image.flip(2)
        places = [
            (flip, top, left)
            for flip, whole in padded.items()
            for top in range(5)
            for left in range(5)
            if torch.allclose(whole[:, top : top + 8, left : left + 8], result)
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
    ("changed", "message"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": PIXELS.astype(np.float32)}, r"x_train must be uint8"),
        ({"y_train": LABELS[:3]}, "y_train must be 6 integers"),
        ({"y_train": LABELS + 1}, "names classes 1 to 3, and there are 3"),
    ],
)
def test_wrong_archives_are_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LABELLED.get("npz")("train", dataroot=str(archive(tmp_path, **changed)))


def damaged(data: bytes, count: int = 60) -> Iterator[bytes]:
    """Data with a byte of its first or last 300 changed, or cut off."""
    random = np.random.default_rng(0)
    for number in range(count):
        place = int(random.integers(min(300, len(data)))) * (-1) ** number
        changed = bytearray(data)
        changed[place] = random.integers(256)
        yield bytes(changed) if number % 3 else data[: int(random.integers(len(data)))]


def test_damaged_archives_and_pickles_are_read_or_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path).read_bytes()
    np.savez_compressed(tmp_path / "images.npz", x_train=PIXELS)
    for data in (*damaged(whole), *damaged((tmp_path / "images.npz").read_bytes())):
        (tmp_path / "images.npz").write_bytes(data)
        with suppress(UserError):
            assert len(LABELLED.get("npz")("train", dataroot=str(tmp_path / "images.npz"))) == 6
    batch = {"data": np.zeros((2, 768), np.uint8), "labels": [1, 2]}
    for data in damaged(pickle.dumps(batch, 2)):
        (tmp_path / "val_data").write_bytes(data)
        with suppress(UserError):
            assert len(LABELLED.get("imagenet16")("test", dataroot=str(tmp_path))) <= 2


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_and_not_run(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "val_data").write_bytes(pickle.dumps({"data": Canary(), "labels": [1]}))
    with pytest.raises(UserError, match=r"asks for (posix|nt)\.mkdir"):
        LABELLED.get("imagenet16")("test", dataroot=str(tmp_path))
    assert not (tmp_path / "run").exists()


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
    result = LABELLED.get("cifar10")("train", dataroot=str(tmp_path))
    assert result.labels == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    image = result.read(7)
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


def make(root: Path, protocol: int = 2) -> np.ndarray:
    """Images of classes 1, 120, 121 and 1000 in every file, whose labels begin at 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 4, 768), dtype=np.uint8)
    for data, name in zip(pixels, [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"], strict=True):
        content = {"data": data, "labels": [1, 120, 121, 1000], "mean": data.mean(0)}
        (root / name).write_bytes(pickle.dumps(content, protocol))
    return pixels


@pytest.mark.parametrize("protocol", [2, 5])
def test_the_first_120_classes_are_kept(tmp_path: Path, protocol: int) -> None:
    pixels = make(tmp_path, protocol)
    train, test = (LABELLED.get("imagenet16")(part, dataroot=str(tmp_path)) for part in ("train", "test"))
    assert (train.labels, test.labels) == ([0, 119] * 10, [0, 119])
    assert len(train.classes) == 120
    image = train.read(3)
    assert image.shape == (16, 16, 3)
    assert image[2, 5].tolist() == pixels[1, 1, [37, 256 + 37, 512 + 37]].tolist()
    np.testing.assert_array_equal(test.read(1)[..., 0].ravel(), pixels[10, 1, :256])
    assert LABELLED.get("imagenet16")("test", dataroot=str(tmp_path), num_classes=1000).labels == [0, 119, 120, 999]


def test_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    wide = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2]}
    (tmp_path / "val_data").write_bytes(pickle.dumps(wide))
    with pytest.raises(UserError, match=r"16x16 pixels, uint8 \[2, 768\], not uint8 \[2, 3072\]"):
        LABELLED.get("imagenet16")("test", dataroot=str(tmp_path))
    (tmp_path / "val_data").write_bytes(pickle.dumps(wide)[:-200])
    with pytest.raises(UserError, match="damaged or no part of ImageNet16"):
        LABELLED.get("imagenet16")("test", dataroot=str(tmp_path))
    (tmp_path / "train_data_batch_10").unlink()
    with pytest.raises(UserError, match="train_data_batch_10 does not exist"):
        LABELLED.get("imagenet16")("train", dataroot=str(tmp_path))


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
    train, test = read_folder("train", dataroot=str(root)), read_folder("test", dataroot=str(root))
    assert train.classes == test.classes == ("bee", "cat", "dog")
    assert (train.labels, test.labels) == ([0, 1, 2, 1, 1], [2])
    files = ["bee/a.png", "cat/a.png", "dog/a.png", "cat/b.JPEG", "cat/deep/c.png"]
    for index, name in enumerate(files):
        np.testing.assert_array_equal(train.read(index), read_rgb(root / "train" / name))
    assert list(train.names) == files and list(train.first(2).names) == files[:2]
    assert train.sizes == {name: (root / "train" / name).stat().st_size for name in files}


def test_images_of_all_sizes_become_one_and_training_is_addressed(root: Path) -> None:
    train = pickle.loads(pickle.dumps(read_folder("train", dataroot=str(root), size=32)))
    first, again, other = (LabelledDataset(train, 4, True, 8, seed=seed) for seed in (1, 1, 2))
    for index in range(5):
        assert first[index, 3][0].shape == (3, 32, 32)
        assert torch.equal(first[index, 3][0], again[index, 3][0])
        assert not torch.equal(first[index, 3][0], other[index, 3][0])
        assert not torch.equal(first[index, 3][0], first[index, 4][0])


def test_images_to_test_with_are_the_same_in_every_draw(root: Path) -> None:
    test = read_folder("test", dataroot=str(root), size=32)
    image, label = LabelledDataset(test)[0, 0]
    assert torch.equal(image, LabelledDataset(test, seed=5)[0, 9][0]) and label == 2
    pixels = (image * torch.tensor(test.std)[:, None, None] + torch.tensor(test.mean)[:, None, None]) * 255
    assert test.transform is not None
    np.testing.assert_allclose(pixels.permute(1, 2, 0), test.transform(Image.fromarray(test.read(0))), atol=1e-3)


def test_without_train_the_classes_are_those_of_the_part(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")
    (root / "val").rename(root / "test")
    result = read_folder("test", dataroot=str(root))
    assert (result.classes, result.labels) == (("dog",), [0])


def test_what_cannot_be_read_is_named_and_links_to_folders_are_followed(root: Path) -> None:
    (root / "train/bee").rename(root / "elsewhere")
    (root / "train/bee").symlink_to(root / "elsewhere")
    (root / "train/bee/loop").symlink_to(root / "elsewhere")
    assert read_folder("train", dataroot=str(root)).labels == [0, 1, 2, 1, 1]
    (root / "train/cat/deep/lost.jpg").symlink_to("/nowhere.jpg")
    with pytest.raises(UserError, match=r"1 of 6 files.*\n.*lost\.jpg: it is a link to /nowhere\.jpg, which is not there"):
        read_folder("train", dataroot=str(root))
    (root / "elsewhere").rename(root / "gone")
    with pytest.raises(UserError, match=r"bee cannot be read as a folder: it is a link to .*elsewhere"):
        read_folder("train", dataroot=str(root))
    (root / "val").rename(root / "gone/val")
    (root / "val").symlink_to("/nowhere")
    with pytest.raises(UserError, match=r"val cannot be read as a folder"):
        read_folder("test", dataroot=str(root))


def test_layouts_that_are_none(root: Path) -> None:
    (root / "val/eel").mkdir()
    with pytest.raises(UserError, match=r"val has classes that .*train has not: eel"):
        read_folder("test", dataroot=str(root))
    (root / "train/eel").mkdir()
    with pytest.raises(UserError, match=r"no image in .*train/eel"):
        read_folder("train", dataroot=str(root))
    with pytest.raises(UserError, match="has no folder val, test"):
        read_folder("test", dataroot=str(root / "train"))
    (root / "flat/val").mkdir(parents=True)
    write_image(root / "flat/val/ILSVRC2012_val_00000001.JPEG", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="holds no folders"):
        read_folder("test", dataroot=str(root / "flat"))


@pytest.mark.parametrize("size", [(300, 400), (401, 257), (90, 64)])
def test_images_to_test_with_are_the_middle_224_pixels_of_256(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    write_image(tmp_path / "val/a/a.png", pixels)
    images = read_folder("test", dataroot=str(tmp_path))
    height, width = size
    short = min(size)
    resized = np.asarray(Image.fromarray(pixels).resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR))
    top, left = round((resized.shape[0] - 224) / 2), round((resized.shape[1] - 224) / 2)
    assert images.transform is not None
    np.testing.assert_array_equal(images.transform(Image.fromarray(pixels)), resized[top : top + 224, left : left + 224])


def test_images_to_train_on_are_boxes_in_other_colours(tmp_path: Path) -> None:
    """Without changed colours, a ramp shows the box: 8 to 100 % of the image, 3/4 to 4/3 as wide as high."""
    ramp = np.zeros((120, 160, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(160), np.arange(120)[:, None]
    write_image(tmp_path / "train/a/a.png", ramp)
    images = read_folder("train", dataroot=str(tmp_path), size=64, colour_jitter=False)
    dataset = LabelledDataset(images)
    boxes = []
    for draw in range(300):
        pixels = (dataset[0, draw][0] * torch.tensor(images.std)[:, None, None] + torch.tensor(images.mean)[:, None, None]) * 255
        width, height = ((pixels[c].max() - pixels[c].min()).item() * 64 / 63 for c in (0, 1))
        boxes.append((width * height / (120 * 160), width / height))
    areas, ratios = np.array(boxes).T
    assert 0.06 < areas.min() < 0.15 and 0.8 < areas.max() < 1.05 and 0.68 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.42
    coloured = LabelledDataset(read_folder("train", dataroot=str(tmp_path), size=64))
    assert not torch.equal(coloured[0, 0][0], dataset[0, 0][0])


def test_drawing_a_sample_leaves_the_global_generator_alone(root: Path) -> None:
    state = torch.get_rng_state()
    LabelledDataset(read_folder("train", dataroot=str(root), size=32))[0, 0]
    assert torch.equal(torch.get_rng_state(), state)
