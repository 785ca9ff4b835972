"""LR images, sub-images and LMDBs made of folders of images."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import lmdb
import numpy as np
import pytest
from preparation import generate
from preparation.generate import Grid, Result, crop, make_lr, write_lmdb

from sr_nas.data.sources import _environments, folder, lmdb_pairs
from sr_nas.errors import UserError
from sr_nas.images.files import decode, read_image, read_rgb, write_image
from sr_nas.images.folders import list_images
from sr_nas.images.resize import downscale
from tests.preparation.images import contents, noise, save

GRID = Grid(12, 12, (2,))


def lr_of(hr: Path, output: Path, scales: tuple[int, ...] = (2, 3), workers: int = 1, overwrite: bool = False) -> list[Result]:
    total, results = make_lr(hr, output, scales, workers, overwrite)
    done = list(results)
    assert len(done) == total
    return done


def cut(hr: Path, lr: Path | None, output: Path, grid: Grid, overwrite: bool = False) -> list[Result]:
    total, results = crop(hr, lr, output, grid, 1, overwrite)
    done = list(results)
    assert len(done) == total
    return done


def pack(source: Path, output: Path, compression: int = 1) -> int:
    total, numbers = write_lmdb(source, output, compression, 1)
    assert list(numbers) == list(range(1, total + 1))
    return total


@pytest.mark.long
def test_lr_equals_the_published_lr_images_of_set5(shared: Path, tmp_path: Path) -> None:
    """On two processes."""
    assert lr_of(shared / "data/Set5/HR", tmp_path, (2, 3, 4), workers=2) == [Result(3)] * 5
    for scale in (2, 3, 4):
        for published in (shared / f"data/Set5/LR_matlab/x{scale}").iterdir():
            ours = tmp_path / f"X{scale}" / f"{published.stem}.png"
            np.testing.assert_array_equal(read_rgb(ours), read_rgb(published))


def test_equal_lr_is_kept_missing_lr_is_made_and_leftovers_of_a_kill_go(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"hr/{number}.png", 25, 37, number)
    lr_of(tmp_path / "hr", tmp_path / "lr")
    first = contents(tmp_path / "lr")
    (tmp_path / "lr/X2/1x2.png").unlink()
    os.utime(save(tmp_path / "lr/X2/.1x2-unfinished-abc.png"), (0, 0))
    writing = save(tmp_path / "lr/X2/.1x2-unfinished-def.png")
    stamp = (tmp_path / "lr/X2/0x2.png").stat().st_mtime_ns
    assert lr_of(tmp_path / "hr", tmp_path / "lr") == [Result(0, 2), Result(1, 1), Result(0, 2)]
    writing.unlink()
    assert contents(tmp_path / "lr") == first
    assert (tmp_path / "lr/X2/0x2.png").stat().st_mtime_ns == stamp


def test_lr_of_another_image_is_reported_and_replaced_on_request_alone(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", seed=1)
    lr_of(tmp_path / "hr", tmp_path / "lr", (2,))
    first = contents(tmp_path / "lr")
    new = save(tmp_path / "hr/a.png", seed=2)
    (result,) = lr_of(tmp_path / "hr", tmp_path / "lr", (2,))
    assert "ax2.png exists and is another image" in result.failure and "--overwrite" in result.failure
    assert contents(tmp_path / "lr") == first
    assert lr_of(tmp_path / "hr", tmp_path / "lr", (2,), overwrite=True) == [Result(1)]
    np.testing.assert_array_equal(read_rgb(tmp_path / "lr/X2/ax2.png"), downscale(read_rgb(new), 2))
    assert lr_of(tmp_path / "hr", tmp_path / "lr", (2,), overwrite=True) == [Result(0, 1)]


def test_one_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png")
    (tmp_path / "hr/b.png").write_bytes(b"no image")
    save(tmp_path / "hr/c.png", 2, 2)
    done = lr_of(tmp_path / "hr", tmp_path / "lr", (2, 3))
    assert [(result.written, bool(result.failure)) for result in done] == [(2, False), (0, True), (1, True)]
    assert "b.png" in done[1].failure and "too small for scale 3" in done[2].failure


def test_names_that_collide_and_places_that_overlap_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "X2/a.png")
    with pytest.raises(UserError, match="holds the images that are read"):
        lr_of(tmp_path / "X2", tmp_path, (2,))
    save(tmp_path / "X2/a.bmp")
    with pytest.raises(UserError, match="same name"):
        lr_of(tmp_path / "X2", tmp_path / "lr")


def test_places_cover_an_image_and_are_whole_lr_pixels() -> None:
    grid = Grid(480, 240, (2, 3, 4))
    assert grid.places(1404, 2040)[:8] == [(0, left) for left in (0, 240, 480, 720, 960, 1200, 1440, 1560)]
    assert grid.places(1404, 2040)[-1] == (924, 1560)
    assert len(grid.places(1404, 2040)) == 5 * 8
    assert grid.places(480, 491) == [(0, 0)]
    assert Grid(6, 6, (2,)).places(9, 12) == [(0, 0), (0, 6), (2, 0), (2, 6)]
    with pytest.raises(UserError, match="too few"):
        grid.places(479, 480)


@pytest.mark.parametrize(("size", "step", "near"), [(50, 24, "48"), (48, 25, "24"), (5, 12, "12")])
def test_sizes_that_are_no_whole_lr_pixels_are_refused(size: int, step: int, near: str) -> None:
    with pytest.raises(UserError, match=f"must be a multiple of 12, for scales 2, 3, 4: for example {near}"):
        Grid(size, step, (2, 3, 4))


def test_hr_and_lr_are_the_same_places_under_one_name(tmp_path: Path) -> None:
    """LR comes from files here, which differ from what would be made of HR."""
    images = {name: noise(31, 45, seed) for seed, name in enumerate(("a", "b"))}
    for (name, image), scale in product(images.items(), (2, 3)):
        write_image(tmp_path / f"hr/{name}.png", image)
        write_image(tmp_path / f"lr/X{scale}/{name}x{scale}.png", noise(31 // scale, 45 // scale, scale))
    assert cut(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(24, 12, (2, 3))) == [Result(18)] * 2
    corners = [(top, left) for top in (0, 6) for left in (0, 12, 18)]
    for name, image in images.items():
        for number, (top, left) in enumerate(corners, 1):
            file = f"{name}_s{number:03}.png"
            np.testing.assert_array_equal(read_rgb(tmp_path / "out/HR" / file), image[top : top + 24, left : left + 24])
            for scale in (2, 3):
                y, x, side = top // scale, left // scale, 24 // scale
                np.testing.assert_array_equal(
                    read_rgb(tmp_path / f"out/LR/X{scale}" / file),
                    noise(31 // scale, 45 // scale, scale)[y : y + side, x : x + side],
                )
    assert len(folder([str(tmp_path / "out/HR")], [str(tmp_path / "out/LR/X2")], scale=2)) == 12


def test_without_lr_it_is_cut_from_the_lr_of_the_whole_image(tmp_path: Path) -> None:
    """LR of a sub-image would differ at its borders."""
    image = noise(24, 36)
    write_image(tmp_path / "hr/a.png", image)
    cut(tmp_path / "hr", None, tmp_path / "out", GRID)
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/LR/X2/a_s002.png"), downscale(image, 2)[:6, 6:12])


def test_equal_sub_images_are_kept_and_missing_ones_are_made(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    cut(tmp_path / "hr", None, tmp_path / "out", GRID)
    first = contents(tmp_path / "out")
    (tmp_path / "out/HR/a_s003.png").unlink()
    (tmp_path / "out/LR/X2/a_s001.png").unlink()
    assert cut(tmp_path / "hr", None, tmp_path / "out", GRID) == [Result(2, 10)]
    assert contents(tmp_path / "out") == first


@pytest.mark.parametrize("change", ["the image", "the step", "to fewer places"])
def test_sub_images_of_another_image_or_grid_are_never_mixed(tmp_path: Path, change: str) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    cut(tmp_path / "hr", None, tmp_path / "out", GRID)
    first = contents(tmp_path / "out")
    grid = Grid(12, 6, (2,)) if change == "the step" else GRID
    if change == "the image":
        save(tmp_path / "hr/a.png", 24, 36, seed=2)
    if change == "to fewer places":
        write_image(tmp_path / "hr/a.png", noise(24, 36)[:12])
    (result,) = cut(tmp_path / "hr", None, tmp_path / "out", grid)
    assert "Choose another output folder, or --overwrite" in result.failure
    assert contents(tmp_path / "out").items() >= first.items()
    (result,) = cut(tmp_path / "hr", None, tmp_path / "out", grid, overwrite=True)
    assert result.failure == ""
    cut(tmp_path / "hr", None, tmp_path / "new", grid)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_images_that_do_not_fit_fail_alone(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    save(tmp_path / "hr/b.png", 8, 36)
    save(tmp_path / "hr/c.png", 24, 36)
    for name, height in (("a", 12), ("b", 4), ("c", 11)):
        save(tmp_path / f"lr/{name}.png", height, 18)
    done = cut(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", GRID)
    assert [result.failure != "" for result in done] == [False, True, True]
    assert "Lower --size" in done[1].failure
    assert "has 18x11 pixels, expected 18x12" in done[2].failure


def test_lr_folders_are_found_or_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    (tmp_path / "lr").mkdir()
    with pytest.raises(UserError, match=r"no LR images of scale 2: tried .*X2 and .*x2"):
        cut(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(12, 12, (2, 4)))
    save(tmp_path / "lr/x2/b.png", 12, 18)
    with pytest.raises(UserError, match=r"HR without LR: 1 \(a\)"):
        cut(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", GRID)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / f"hr/{number:04}_s001.png", 24 + number, 36, number)
    return tmp_path / "hr"


def test_basicsr_reads_what_is_written(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.data.data_util import paired_paths_from_lmdb
    from basicsr.utils import FileClient, imfrombytes

    assert pack(images, tmp_path / "hr.lmdb") == pack(images, tmp_path / "lq.lmdb") == 3
    places = [str(tmp_path / "lq.lmdb"), str(tmp_path / "hr.lmdb")]
    keys = [pair["gt_path"] for pair in paired_paths_from_lmdb(places, ["lq", "gt"])]
    assert keys == ["0000_s001", "0001_s001", "0002_s001"]
    client = FileClient("lmdb", db_paths=places, client_keys=["lq", "gt"])
    for key in keys:
        pixels = imfrombytes(client.get(key, "gt"))[..., ::-1]
        np.testing.assert_array_equal(pixels, read_rgb(images / f"{key}.png"))


def test_what_basicsr_writes_is_read_here(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    files = sorted(file.name for file in images.iterdir())
    make_lmdb_from_imgs(str(images), str(tmp_path / "theirs.lmdb"), files, [name[:-4] for name in files])
    pack(images, tmp_path / "ours.lmdb")
    theirs, ours = (lmdb_pairs(str(tmp_path / name), scale=2) for name in ("theirs.lmdb", "ours.lmdb"))
    assert theirs.names == ours.names
    for index in range(3):
        np.testing.assert_array_equal(theirs.hr(index), ours.hr(index))
    assert (tmp_path / "ours.lmdb/meta_info.txt").read_text() == (tmp_path / "theirs.lmdb/meta_info.txt").read_text()


def test_lr_images_made_here_pair_up_with_hr_in_basicsr(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    lr_of(images, tmp_path / "lr", (2,))
    pack(images, tmp_path / "hr.lmdb")
    pack(tmp_path / "lr/X2", tmp_path / "lr.lmdb")
    places = {"dataroot_gt": str(tmp_path / "hr.lmdb"), "dataroot_lq": str(tmp_path / "lr.lmdb")}
    theirs = PairedImageDataset({**places, "io_backend": {"type": "lmdb"}, "scale": 2, "phase": "val"})
    assert lmdb_pairs(places["dataroot_gt"], places["dataroot_lq"], scale=2).names == [file.stem for file in list_images(images)]
    for place in places.values():
        _environments.pop(place)[1].close()  # LMDB is opened once in a process
    for index in range(3):
        pixels = theirs[index]["lq"].numpy().transpose(1, 2, 0) * 255
        np.testing.assert_allclose(pixels, downscale(read_rgb(list_images(images)[index]), 2), atol=1e-3)


def test_kinds_of_pixels_stay_what_they_are(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), np.uint16)
    kinds = {"1grey": noise(5, 6, 0, 1), "3rgb": noise(5, 6), "4rgba": noise(5, 6, 0, 4), "deep": deep}
    for name, pixels in kinds.items():
        write_image(tmp_path / f"in/{name}.png", pixels)
    write_image(tmp_path / "in/x2.png", noise(5, 6, 0, 2))
    pack(tmp_path / "in", tmp_path / "out.lmdb", 9)
    lines = (tmp_path / "out.lmdb/meta_info.txt").read_text().splitlines()
    expected = {"1grey": 1, "3rgb": 3, "4rgba": 4, "deep": 3, "x2": 4}
    assert lines == [f"{name}.png (5,6,{channels}) 9" for name, channels in expected.items()]
    with lmdb.open(str(tmp_path / "out.lmdb"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for name, pixels in kinds.items():
            np.testing.assert_array_equal(decode(transaction.get(name.encode())), pixels)
        two = read_image(tmp_path / "in/x2.png")
        np.testing.assert_array_equal(decode(transaction.get(b"x2"))[..., [0, 3]], two)


def test_an_lmdb_takes_the_room_of_its_data(tmp_path: Path) -> None:
    """A page or two per image more, whatever the size of its map."""
    sides = [3, 400, 5, 30, 31, 250, 8] * 6
    for number, side in enumerate(sides):
        save(tmp_path / f"in/{number:03}.png", side, side, number)
    pack(tmp_path / "in", tmp_path / "out.lmdb")
    with lmdb.open(str(tmp_path / "out.lmdb"), readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == len(sides)
    data = sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    assert (tmp_path / "out.lmdb/data.mdb").stat().st_blocks * 512 < 1.1 * data + 4096 * 3 * len(sides)


def test_an_lmdb_that_cannot_be_written_leaves_nothing_and_one_that_exists_stays(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.lmdb"):
        pack(images, tmp_path / "out")
    (images / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        pack(images, tmp_path / "out.lmdb")
    (images / "bad.png").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["hr"]
    pack(images, tmp_path / "out.lmdb")
    before = contents(tmp_path / "out.lmdb")
    with pytest.raises(UserError, match="exists"):
        pack(images, tmp_path / "out.lmdb")
    assert contents(tmp_path / "out.lmdb") == before
    save(images / "0001_s001.bmp")
    with pytest.raises(UserError, match="same name"):
        pack(images, tmp_path / "other.lmdb")


def test_keys_that_lmdb_does_not_take_and_a_full_disk(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "LONGEST_KEY", 8)
    with pytest.raises(UserError, match="no key of LMDB"):
        pack(images, tmp_path / "out.lmdb")
    monkeypatch.undo()
    monkeypatch.setattr(generate, "MAP_SIZE", 2**14)
    with pytest.raises(UserError, match=r"cannot be written: .*MDB_MAP_FULL"):
        pack(images, tmp_path / "out.lmdb")
    monkeypatch.undo()
    for name in (os.fsdecode(b"b\xff"), "two\nlines", "two\u2028lines"):
        save(images / f"{name}.png")
        with pytest.raises(UserError, match="is no key of LMDB: at most 511 bytes of UTF-8, without line breaks"):
            pack(images, tmp_path / "out.lmdb")
        (images / f"{name}.png").unlink()
    # Written to a map without room, a page would end the process by a bus error.
    monkeypatch.setattr("shutil.disk_usage", lambda place: Mock(free=generate.SPARE + 100))
    with pytest.raises(UserError, match=r"the next image of out\.lmdb needs [\d,]+ bytes, the disk of .* has 1,048,676 left"):
        pack(images, tmp_path / "out.lmdb")
    monkeypatch.setattr("shutil.disk_usage", lambda place: Mock(free=0))
    with pytest.raises(UserError, match=r"out\.lmdb needs 1,048,576 bytes"):
        pack(images, tmp_path / "out.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["hr"]
