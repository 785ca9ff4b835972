"""Decoded pixels on disk: the same patches, whatever happens to the files."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sr_nas.data.loader import PatchDataset, ResumableLoader
from sr_nas.data.sources import CachedImages, _environments, _warn, folder, lmdb_pairs
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb
from sr_nas.images.resize import downscale
from sr_nas.runs.files import cache_folder
from tests.data.test_sources import make_lmdb, noise, save


@pytest.fixture(autouse=True)
def empty_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SR_NAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of different sizes, no side a multiple of the scale, one turned by its EXIF orientation."""
    for number in range(4):
        save(tmp_path / f"hr/{number}.png", noise(25 + 2 * number, 33 - 2 * number, 3, seed=number))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(21, 35, 3, seed=4)).save(tmp_path / "hr/turned.png", exif=exif)
    return tmp_path / "hr"


def entries(place: Path | None = None) -> list[Path]:
    return sorted((place or cache_folder("pixels")).glob("*/*.npy"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["LR made", "LR files", "lmdb", "lmdb with LR"])
def test_batches_from_the_cache_equal_decoded_ones(photos: Path, source: str, workers: int) -> None:
    hr = {file.stem: read_rgb(file) for file in photos.iterdir()}
    lr = {name: downscale(image, 2) for name, image in hr.items()}
    if "lmdb" in source:
        hr_lmdb = make_lmdb(photos.parent / "hr.lmdb", hr)
        lr_lmdb = make_lmdb(photos.parent / "lr.lmdb", lr) if "with" in source else None
        plain, fast = (lmdb_pairs(hr_lmdb, lr_lmdb, cache, scale=2) for cache in (False, True))
    else:
        for name, image in lr.items():
            save(photos.parent / "lr" / f"{name}.png", image)
        places = [str(photos.parent / "lr")] if source == "LR files" else None
        plain, fast = (folder([str(photos)], places, cache=cache, scale=2) for cache in (False, True))
    expected = ResumableLoader(PatchDataset(plain, 12, seed=3, memory_budget=0), range(5), 4, 0)
    cached = ResumableLoader(PatchDataset(fast, 12, seed=3), range(5), 4, 0, workers)
    for _ in range(6):
        for one, other in zip(expected.next(), cached.next(), strict=True):
            assert one.shape == other.shape and one.stride() == other.stride() and (one == other).all()
    assert len(entries()) == 10


def test_what_is_cached_is_never_decoded_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = folder([str(photos)], cache=True, scale=2)
    whole = [(pairs.hr(index), pairs.lr(index)) for index in range(5)]
    monkeypatch.setattr("sr_nas.data.sources.read_rgb", lambda file: pytest.fail(f"{file} was decoded"))
    again = PatchDataset(folder([str(photos)], cache=True, scale=2), 12)
    for index in range(5):
        pickle.loads(pickle.dumps(again))[index, index]
        np.testing.assert_array_equal(again.pairs.hr(index), whole[index][0])
        np.testing.assert_array_equal(again.pairs.lr(index), whole[index][1])


def test_mapped_images_are_read_only_views_and_are_not_kept(photos: Path) -> None:
    patches = PatchDataset(folder([str(photos)], cache=True, scale=2), 12)
    for _ in range(2):
        patches[0, 0]
    assert not patches.pairs.hr(0).flags.writeable and not patches.pairs.hr(0).flags.owndata
    assert not patches._memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("cache", [True, False])
def test_neither_memory_maps_nor_open_files_grow_with_the_images(tmp_path: Path, cache: bool) -> None:
    image = noise(64, 64, 3)
    for number in range(40):
        save(tmp_path / f"hr/{number:02}.bmp", image)
    patches = PatchDataset(folder([str(tmp_path / "hr")], cache=cache, scale=2), 16)

    def held() -> tuple[int, int]:  # of images and of cached pixels alone: earlier tests' files may be closed at any moment
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        return maps.count(".npy"), sum(file.endswith((".npy", ".bmp")) for file in open_files())

    for index in range(40):
        patches[index, index]
        patches[index, index]
    assert held() == (0, 0)
    with open(tmp_path / "hr/00.bmp", "rb"):
        assert held() == (0, 1)


def open_files() -> list[str]:
    """What this process's open files are, as the kernel names them."""
    files = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor that lists the folder itself
            files.append(os.readlink(f"/proc/self/fd/{number}"))
    return files


@pytest.mark.parametrize("cache", [True, False])
def test_an_edited_file_gets_new_pixels_in_place_of_the_old(tmp_path: Path, cache: bool) -> None:
    pairs = None
    for seed in (0, 1):
        image = noise(17, 16, 3, seed=seed)
        file = save(tmp_path / "hr/a.bmp", image)
        os.utime(file, ns=(seed, seed))
        pairs = pairs or folder([str(tmp_path / "hr")], cache=cache, scale=2)  # a run that is under way sees it too
        np.testing.assert_array_equal(pairs.hr(0), image[:16])
        np.testing.assert_array_equal(pairs.lr(0), downscale(image, 2))
        assert len(entries()) == 1 + cache


def test_a_file_of_another_size_gets_new_pixels_even_at_the_same_time(tmp_path: Path) -> None:
    for side in (8, 10):
        file = save(tmp_path / "hr/a.bmp", noise(side, side, 3))
        os.utime(file, ns=(0, 0))
        assert folder([str(tmp_path / "hr")], cache=True, scale=2).hr(0).shape == (side, side, 3)


@pytest.mark.parametrize(("way", "cache"), [("in place", True), ("in place", False), ("renamed", True), ("link", True)])
def test_a_file_replaced_by_one_of_equal_size_and_time_gets_new_pixels(tmp_path: Path, cache: bool, way: str) -> None:
    versions = [save(tmp_path / f"{seed}.bmp", noise(17, 16, 3, seed=seed)) for seed in range(3)]
    (tmp_path / "hr").mkdir()
    target, running = tmp_path / "hr/a.bmp", None
    for seed, file in enumerate(versions):
        os.utime(file, ns=(0, 0))
        if way == "link":
            target.unlink(missing_ok=True)
            target.symlink_to(file)
        else:
            shutil.copy2(file, tmp_path / "new.bmp" if way == "renamed" else target)
        if way == "renamed":
            (tmp_path / "new.bmp").replace(target)
        running = running or folder([str(tmp_path / "hr")], cache=cache, scale=2)
        for pairs in (running, folder([str(tmp_path / "hr")], cache=cache, scale=2)):
            np.testing.assert_array_equal(pairs.hr(0), noise(17, 16, 3, seed=seed)[:16])
            np.testing.assert_array_equal(pairs.lr(0), downscale(noise(17, 16, 3, seed=seed), 2))
    assert len({(file.stat().st_size, file.stat().st_mtime_ns) for file in (*versions, target)}) == 1


@pytest.mark.parametrize("damage", ["cut", "header", "text", "empty", "gone"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    image = noise(16, 24, 3)
    save(tmp_path / "hr/a.png", image)
    pairs = folder([str(tmp_path / "hr")], cache=str(tmp_path / "place"), scale=2)
    pairs.hr(0)
    (entry,) = entries(tmp_path / "place")
    whole = entry.read_bytes()
    if damage == "gone":
        shutil.rmtree(tmp_path / "place")
    else:
        entry.write_bytes({"cut": whole[:-9], "header": whole[:30], "text": b"x" * len(whole), "empty": b""}[damage])
    np.testing.assert_array_equal(pairs.hr(0), image)
    assert entries(tmp_path / "place") == [entry] and entry.read_bytes() == whole
    assert not cache_folder("pixels").exists() or not entries()


def test_a_cache_that_is_deleted_while_it_is_written_to_costs_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = folder([str(photos)], cache=True, scale=2)
    fsync = os.fsync

    def deleted(handle: int) -> None:
        shutil.rmtree(cache_folder("pixels"))
        fsync(handle)

    monkeypatch.setattr("os.fsync", deleted)
    np.testing.assert_array_equal(pairs.hr(0), read_rgb(photos / "0.png")[:24, :32])
    monkeypatch.setattr("os.fsync", fsync)
    np.testing.assert_array_equal(pairs.hr(0), read_rgb(photos / "0.png")[:24, :32])
    assert len(entries()) == 1


def test_one_file_at_two_scales_shares_hr_and_has_two_lr(photos: Path) -> None:
    for scale in (2, 3):
        pairs = folder([str(photos)], cache=True, scale=scale)
        np.testing.assert_array_equal(pairs.lr(0), downscale(read_rgb(photos / "0.png"), scale))
    assert len(entries()) == 3


def read_and_delete(photos: Path, place: Path, together: Any, results: Any) -> None:
    """Read all images of a cache again and again while entries disappear, and send a digest of the pixels."""
    pairs, digest = folder([str(photos)], cache=str(place), scale=2), hashlib.sha256()
    together.wait()
    for _ in range(30):
        for index in range(5):
            for image in (pairs.hr(index), pairs.lr(index)):
                digest.update(image.tobytes())
            for entry in list(place.glob("*/hr-*.npy"))[:1]:
                entry.unlink(missing_ok=True)
    results.put(digest.hexdigest())


def test_two_processes_that_fill_one_cache_at_once_read_the_same(photos: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, results = context.Barrier(2), context.Queue()
    arguments = (photos, tmp_path / "pixels", together, results)
    processes = [context.Process(target=read_and_delete, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    digests = {results.get(timeout=300) for _ in processes}
    for process in processes:
        process.join()
    pairs, expected = folder([str(photos)], scale=2), hashlib.sha256()
    for index in 30 * list(range(5)):
        expected.update(pairs.hr(index).tobytes() + pairs.lr(index).tobytes())
    assert digests == {expected.hexdigest()}
    assert not list((tmp_path / "pixels").glob("*/.*"))


def test_on_a_full_disk_images_are_decoded_and_one_warning_says_so(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = folder([str(photos)], cache=True, scale=2)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    _warn.cache_clear()
    with pytest.warns(UserWarning, match=r"cannot be kept in .*pixels \(No space left.*cache: FOLDER.*cache: false") as warned:
        images = [pairs.lr(index) for index in range(3)]
    assert len(warned) == 1
    for index, image in enumerate(images):
        np.testing.assert_array_equal(image, downscale(read_rgb(photos / f"{index}.png"), 2))
    assert not [file for file in cache_folder("pixels").rglob("*") if file.is_file()]


@pytest.mark.parametrize("cache", [True, False])
def test_a_cache_folder_that_cannot_be_made_is_explained(photos: Path, cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SR_NAS_CACHE", str(photos / "0.png"))
    with pytest.raises(UserError, match=r"pixels cannot be kept in the cache.*0\.png.*SR_NAS_CACHE or cache: FOLDER"):
        folder([str(photos)], cache=cache, scale=2)


def test_a_file_that_is_gone_is_named(photos: Path) -> None:
    pairs = folder([str(photos)], cache=True, scale=2)
    pairs.hr(1)
    (photos / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png cannot be read any more"):
        pairs.hr(1)


def test_an_lmdb_that_is_written_again_gets_new_pixels(tmp_path: Path) -> None:
    for seed in (0, 1):
        image = noise(8, 8, 3, seed=seed)
        place = make_lmdb(tmp_path / "hr.lmdb", {"a": image, "b": image[::-1]})
        os.utime(tmp_path / "hr.lmdb/data.mdb", ns=(seed, seed))
        pairs = lmdb_pairs(place, cache=True, scale=2)
        np.testing.assert_array_equal(pairs.hr(0), image)
        np.testing.assert_array_equal(pairs.hr(1), image[::-1])
        _environments.pop(place)[1].close()  # it is written by another process, as a rule
    assert len(entries()) == 2


def test_an_lmdb_that_another_took_the_place_of_is_opened_anew(tmp_path: Path) -> None:
    """Of equal size and time, while it is open: else its old pixels would be kept as those of the new one."""
    images = [noise(8, 8, 3, seed=seed) for seed in (0, 1)]
    for name, image in zip(("hr", "new"), images, strict=True):
        os.utime(Path(make_lmdb(tmp_path / name, {"a": image})) / "data.mdb", ns=(0, 0))
    pairs = lmdb_pairs(str(tmp_path / "hr"), cache=True, scale=2)
    np.testing.assert_array_equal(pairs.hr(0), images[0])
    (tmp_path / "new/data.mdb").replace(tmp_path / "hr/data.mdb")
    np.testing.assert_array_equal(pairs.hr(0), images[1])


def test_a_patch_reads_the_rows_it_lies_on_alone(tmp_path: Path) -> None:
    """An entry with a hole in place of most rows gives the patch beside the hole: nothing else is looked at."""
    image = noise(400, 400, 3)
    images = CachedImages(tmp_path / "cache", [(save(tmp_path / "a.png", image), "")], "hr", lambda index: image)
    images(0)
    (entry,) = entries(tmp_path / "cache")
    content = bytearray(entry.read_bytes())
    content[-300 * 1200 :] = bytes(300 * 1200)
    entry.write_bytes(content)
    np.testing.assert_array_equal(images(0)[40:90, 7:77], image[40:90, 7:77])
    assert not images(0)[100:].any()
