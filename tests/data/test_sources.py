"""Where pairs come from: the bundled photos, folders, LMDB."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from sr_nas.data.loader import PatchDataset, ResumableLoader
from sr_nas.data.sources import Pairs, benchmark_set, folder, lmdb_pairs, open_lmdb, sample
from sr_nas.errors import UserError
from sr_nas.images.resize import downscale
from sr_nas.options.strict import section_model
from sr_nas.registry import PAIRS
from sr_nas.runs.files import cache_folder
from tests.images.encoded import make_unreadable


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


def noise(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(file: Path, image: np.ndarray) -> Path:
    """Write a grey, RGB or RGBA image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    swapped = image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    assert cv2.imwrite(str(file), swapped)
    return file


def make_lmdb(place: Path, images: dict[str, np.ndarray]) -> str:
    """Write an LMDB folder as basicsr.utils.lmdb_util.LmdbMaker does."""
    with lmdb.open(os.fsencode(place), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for key, image in images.items():
            png = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            transaction.put(key.encode("ascii"), png.tobytes())
    lines = [f"{key}.png ({image.shape[0]},{image.shape[1]},{image.shape[2]}) 1\n" for key, image in images.items()]
    (place / "meta_info.txt").write_text("".join(lines))
    return str(place)


def last_hr(pairs: Pairs) -> np.ndarray:
    return pairs.hr(len(pairs) - 1)


def lr_entries() -> list[Path]:
    return sorted(cache_folder("pixels").glob("*/*.npy"))


@pytest.fixture(autouse=True)
def empty_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SR_NAS_CACHE", str(tmp_path / "cache"))


def test_sources_are_found_by_name_and_their_arguments_are_their_options(tmp_path: Path) -> None:
    assert sorted(PAIRS.names()) == ["folder", "lmdb", "sample"]
    options = section_model(PAIRS, "folder", Settings)(dataroot_gt=str(tmp_path))
    unset = {"dataroot_lq": None, "filename_tmpl": "{}", "cache": False}
    assert options.model_dump() == {"type": "folder", "dataroot_gt": [str(tmp_path)]} | unset
    assert section_model(PAIRS, "lmdb", Settings)(dataroot_gt=str(tmp_path), cache="~/px").model_dump()["cache"] == str(
        Path.home() / "px"
    )
    with pytest.raises(ValidationError, match="does not exist"):
        section_model(PAIRS, "lmdb", Settings)(dataroot_gt=str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match="once"):
        section_model(PAIRS, "folder", Settings)(dataroot_gt=str(tmp_path), filename_tmpl="x2")


def test_sample_photos_are_colour_and_the_held_out_one_is_not_among_them() -> None:
    train, held_out = sample(scale=2), sample(held_out=True, scale=2)
    assert held_out.names == ["chelsea"] and len(train) == 5 and not set(train.names) & set(held_out.names)
    for pairs in (train, held_out):
        for index in range(len(pairs)):
            hr, lr = pairs.hr(index), pairs.lr(index)
            assert np.ptp(hr.astype(int), axis=2).max() > 50
            np.testing.assert_array_equal(lr, downscale(hr, 2))


def test_a_missing_sample_photo_says_which_scikit_image_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_nas.data.sources.PHOTOS", ("nobody.png",))
    with pytest.raises(UserError, match=r"nobody\.png is missing: the wheels of scikit-image 0\.22 and later"):
        sample(scale=2)


def test_hr_alone_gets_lr_from_the_cache_and_the_cache_equals_fresh(tmp_path: Path) -> None:
    image = noise(21, 34, 3)
    save(tmp_path / "hr/a.png", image)
    fresh = folder([str(tmp_path / "hr")], scale=2).lr(0)
    np.testing.assert_array_equal(fresh, downscale(image, 2))
    (entry,) = lr_entries()
    written = entry.stat().st_mtime_ns
    np.testing.assert_array_equal(folder([str(tmp_path / "hr")], scale=2).lr(0), fresh)
    assert lr_entries() == [entry] and entry.stat().st_mtime_ns == written
    np.testing.assert_array_equal(folder([str(tmp_path / "hr")], scale=3).lr(0), downscale(image, 3))
    assert len(lr_entries()) == 2


def test_what_is_cached_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "hr/a.png", noise(12, 12, 3))
    expected = folder([str(tmp_path / "hr")], scale=2).lr(0)
    monkeypatch.setattr("sr_nas.data.sources.downscale", lambda image, scale: pytest.fail("resized again"))
    np.testing.assert_array_equal(folder([str(tmp_path / "hr")], scale=2).read_lr(0), expected)


@pytest.mark.parametrize(("lr_name", "template"), [("a", "{}"), ("ax2", "{}"), ("low_a", "low_{}")])
def test_lr_folders_pair_by_name(tmp_path: Path, lr_name: str, template: str) -> None:
    hr, lr = noise(16, 20, 3), noise(8, 10, 3, seed=1)
    save(tmp_path / "hr/a.png", hr)
    save(tmp_path / f"lr/{lr_name}.bmp", lr)
    pairs = folder([str(tmp_path / "hr")], [str(tmp_path / "lr")], template, scale=2)
    assert pairs.names == ["a"]
    np.testing.assert_array_equal(pairs.hr(0), hr)
    np.testing.assert_array_equal(pairs.lr(0), lr)


def test_pixels_of_any_kind_arrive_as_8_bit_rgb(tmp_path: Path) -> None:
    grey, rgba, deep = noise(8, 8), noise(8, 8, 4), noise(8, 8, 3, dtype=np.uint16)
    save(tmp_path / "hr/1_grey.png", grey)
    save(tmp_path / "hr/2_rgba.png", rgba)
    save(tmp_path / "hr/3_deep.png", deep)
    pairs = folder([str(tmp_path / "hr")], scale=2)
    np.testing.assert_array_equal(pairs.hr(0), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(pairs.hr(1), rgba[..., :3])
    np.testing.assert_array_equal(pairs.hr(2), np.rint(deep / 257))


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a\.png"):
        folder([str(tmp_path)], scale=2).lr(0)


@pytest.mark.parametrize("side", ["hr", "lr"])
def test_what_cannot_be_read_is_named_before_anything_is(tmp_path: Path, side: str) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "hr" / name, noise(8, 8, 3))
        save(tmp_path / "lr" / name, noise(4, 4, 3))
    reasons = make_unreadable(tmp_path / side)
    for place in ("hr", "lr"):
        for name in ("link.png", "loop.png", "pipe.png", "shut.png", "b.png"):
            if not os.path.lexists(tmp_path / place / name):
                save(tmp_path / place / name, noise(8, 8, 3))
    with pytest.raises(
        UserError, match=rf"{len(reasons)} of 12 files of the data set cannot be read:\n.*{side}/link\.png: it is a"
    ):
        folder([str(tmp_path / "hr")], [str(tmp_path / "lr")], scale=2)
    with pytest.raises(UserError, match=r"loop\.png: Too many levels"):
        benchmark_set(tmp_path / "hr", 2, tmp_path / "lr")


def test_folders_that_do_not_pair_or_hold_nothing_are_reported(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", noise(8, 8, 3))
    save(tmp_path / "lr/b.png", noise(4, 4, 3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"HR without LR: 1 \(a\)"):
        folder([str(tmp_path / "hr")], [str(tmp_path / "lr")], scale=2)
    with pytest.raises(UserError, match="empty"):
        folder([str(tmp_path / "empty")], scale=2)
    with pytest.raises(UserError, match="no dataroot_lq"):
        folder([str(tmp_path / "hr")], filename_tmpl="{}_lr", scale=2)
    save(tmp_path / "hr/a.jpg", noise(8, 8, 3))
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        folder([str(tmp_path / "hr")], scale=2)


def test_published_lr_of_set5_pairs_and_equals_ours(shared: Path) -> None:
    hr, lr = str(shared / "data/Set5/HR"), str(shared / "data/Set5/LR_matlab/x3")
    published, made = folder([hr], [lr], scale=3), folder([hr], scale=3)
    assert published.names == ["baby", "bird", "butterfly", "head", "woman"]
    for index in range(5):
        np.testing.assert_array_equal(published.lr(index), made.lr(index))


def test_lmdb_pairs_hold_what_was_written(tmp_path: Path) -> None:
    hr = {f"{number:04}_s001": noise(12, 16, 3, seed=number) for number in range(3)}
    lr = {key: noise(6, 8, 3, seed=9) for key in hr}
    pairs = lmdb_pairs(make_lmdb(tmp_path / "hr.lmdb", hr), make_lmdb(tmp_path / "lr.lmdb", lr), scale=2)
    assert pairs.names == list(hr)
    for index, key in enumerate(hr):
        np.testing.assert_array_equal(pairs.hr(index), hr[key])
        np.testing.assert_array_equal(pairs.lr(index), lr[key])


def test_lmdb_without_lr_makes_it_and_leaves_the_lmdb_alone(tmp_path: Path) -> None:
    image = noise(12, 18, 3)
    place = make_lmdb(tmp_path / "hr.lmdb", {"a": image})
    (Path(place) / "lock.mdb").unlink()
    before = sorted(file.name for file in Path(place).iterdir())
    np.testing.assert_array_equal(lmdb_pairs(place, scale=3).lr(0), downscale(image, 3))
    assert sorted(file.name for file in Path(place).iterdir()) == before and len(lr_entries()) == 1


def test_lmdb_is_read_by_workers_after_it_was_read_here(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path / "hr.lmdb", {key: noise(8, 8, 3, seed=ord(key)) for key in "abc"})
    pairs = lmdb_pairs(place, scale=2)
    here, there = (ResumableLoader(PatchDataset(pairs, 8), [0, 1, 2], 3, 0, workers) for workers in (0, 2))
    for _ in range(2):
        assert all((one == other).all() for one, other in zip(here.next(), there.next(), strict=True))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pairs)).hr(1), pairs.hr(1))


def test_each_process_opens_an_lmdb_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_lmdb(tmp_path / "hr.lmdb", {"a": noise(4, 4, 3)})
    opened = open_lmdb(Path(place))
    assert open_lmdb(Path(place)) is opened
    monkeypatch.setattr("os.getpid", lambda: 0)
    assert open_lmdb(Path(place)) is not opened


def test_lmdb_keys_may_hold_dots_and_blanks(tmp_path: Path) -> None:
    assert lmdb_pairs(make_lmdb(tmp_path / "hr.lmdb", {" my photo v1.5": noise(4, 4, 3)}), scale=2).names == [" my photo v1.5"]


def test_lmdb_images_of_any_kind_arrive_as_8_bit_rgb(tmp_path: Path) -> None:
    grey, deep = noise(4, 4, 1), noise(4, 4, 3, dtype=np.uint16)
    pairs = lmdb_pairs(make_lmdb(tmp_path / "hr.lmdb", {"grey": grey, "deep": deep}), scale=2)
    np.testing.assert_array_equal(pairs.hr(0), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(pairs.hr(1), np.rint(deep / 257))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, r"has no meta_info\.txt"),
        ("", "lists no images"),
        ("a (4,4,3)\n", r"line 1: 'a \(4,4,3\)' is not of the form"),
        ("a.png (4,4,3) 1\n" * 2, "line 2: 'a' is listed twice"),
        ("a.png (4,4,3) 1\nb.png (4,4,3) 1\n", "has no image 'b', which its meta_info"),
        ("text.png (4,4,3) 1\n", "cannot read the image 'text' of"),
    ],
)
def test_an_lmdb_that_is_not_whole_says_what_is_wrong(tmp_path: Path, meta: str | None, message: str) -> None:
    place = Path(make_lmdb(tmp_path / "hr.lmdb", {"a": noise(4, 4, 3)}))
    with lmdb.open(str(place), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"text", b"text")
    (place / "meta_info.txt").unlink()
    if meta is not None:
        (place / "meta_info.txt").write_text(meta)
    with pytest.raises(UserError, match=message):
        last_hr(lmdb_pairs(str(place), scale=2))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 0.9, 0.999])
def test_a_cut_lmdb_is_refused_when_it_is_opened_and_while_it_is_open(tmp_path: Path, share: float) -> None:
    place = make_lmdb(tmp_path / "hr.lmdb", {key: noise(64, 64, 3, seed=ord(key)) for key in "abcdef"})
    file = Path(place) / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(UserError, match=r"is cut off|cannot be read as LMDB"):
        lmdb_pairs(place, scale=2)
    file.write_bytes(whole)
    pairs = lmdb_pairs(place, scale=2)
    last_hr(pairs)
    cut = round(share * len(whole))
    os.truncate(file, cut)
    with pytest.raises(UserError, match=rf"hr\.lmdb is cut off: its data\.mdb has {cut:,} of {len(whole):,}"):
        last_hr(pairs)


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xff\xfed")
    image = noise(12, 16, 3)
    save(tmp_path / "hr/a.png", image).rename(tmp_path / f"hr/{name}.png")  # OpenCV would not write this name
    (tmp_path / "hr").rename(tmp_path / name)
    for cache in (True, False):
        pairs = folder([str(tmp_path / name)], cache=cache, scale=2)
        assert pairs.names == [name]
        np.testing.assert_array_equal(pairs.lr(0), downscale(image, 2))
    np.testing.assert_array_equal(lmdb_pairs(make_lmdb(tmp_path / f"{name}.lmdb", {"a": image}), scale=2).hr(0), image)


def test_a_folder_without_data_is_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "meta_info.txt").write_text("a.png (4,4,3) 1\n")
    with pytest.raises(UserError, match=r"cannot be read as LMDB: .*No such file.*data\.mdb"):
        lmdb_pairs(str(tmp_path), scale=2)
