"""LMDB in BasicSR's layout: written here and read there, and the other way round."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import lmdb
import numpy as np
import pytest

from sr_nas.data.sources import lmdb_pairs
from sr_nas.errors import UserError
from sr_nas.images.decode import decode
from sr_nas.images.files import list_images, read_image, read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.preparation import generate as lmdb_writer
from sr_nas.preparation.generate import make_lr, write_lmdb
from tests.preparation.images import contents, noise, save


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / f"hr/{number:04}_s001.png", 24 + number, 36, number)
    return tmp_path / "hr"


def test_basicsr_reads_what_is_written(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.data.data_util import paired_paths_from_lmdb
    from basicsr.utils import FileClient, imfrombytes

    assert write_lmdb(images, tmp_path / "hr.lmdb", 1, 2) == (3, True, None)
    assert write_lmdb(images, tmp_path / "lq.lmdb", 1, 1) == (3, True, None)
    places = [str(tmp_path / "lq.lmdb"), str(tmp_path / "hr.lmdb")]
    keys = [pair["gt_path"] for pair in paired_paths_from_lmdb(places, ["lq", "gt"])]
    assert keys == ["0000_s001", "0001_s001", "0002_s001"]
    client = FileClient("lmdb", db_paths=places, client_keys=["lq", "gt"])
    for key in keys:
        found = imfrombytes(client.get(key, "gt"))[..., ::-1]
        np.testing.assert_array_equal(found, read_rgb(images / f"{key}.png"))


def test_what_basicsr_writes_is_read_here(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    files = sorted(file.name for file in images.iterdir())
    make_lmdb_from_imgs(str(images), str(tmp_path / "theirs.lmdb"), files, [name[:-4] for name in files])
    write_lmdb(images, tmp_path / "ours.lmdb", 1, 1)
    theirs, ours = (lmdb_pairs(str(tmp_path / name), scale=2) for name in ("theirs.lmdb", "ours.lmdb"))
    assert theirs.names == ours.names
    for index in range(3):
        np.testing.assert_array_equal(theirs.hr(index), ours.hr(index))
    assert (tmp_path / "ours.lmdb/meta_info.txt").read_text() == (tmp_path / "theirs.lmdb/meta_info.txt").read_text()


def test_kinds_of_pixels_stay_what_they_are(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), np.uint16)
    kinds = {"1grey": noise(5, 6, 0, 1), "3rgb": noise(5, 6), "4rgba": noise(5, 6, 0, 4), "deep": deep}
    for name, pixels in kinds.items():
        write_image(tmp_path / f"in/{name}.png", pixels)
    write_image(tmp_path / "in/x2.png", noise(5, 6, 0, 2))
    write_lmdb(tmp_path / "in", tmp_path / "out.lmdb", 9, 1)
    lines = (tmp_path / "out.lmdb/meta_info.txt").read_text().splitlines()
    expected = {"1grey": 1, "3rgb": 3, "4rgba": 4, "deep": 3, "x2": 4}
    assert lines == [f"{name}.png (5,6,{channels}) 9" for name, channels in expected.items()]
    with lmdb.open(str(tmp_path / "out.lmdb"), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for name, pixels in kinds.items():
            np.testing.assert_array_equal(decode(transaction.get(name.encode())), pixels)
        two = read_image(tmp_path / "in/x2.png")
        np.testing.assert_array_equal(decode(transaction.get(b"x2"))[..., [0, 3]], two)


def test_the_map_fits_images_of_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise, which PNG cannot shrink, over many transactions; the map ends within a page or two per image of the data."""
    monkeypatch.setattr(lmdb_writer, "BATCH", 200_000)
    sides = [3, 400, 5, 30, 31, 250, 8] * 6
    for number, side in enumerate(sides):
        save(tmp_path / f"in/{number:03}.png", side, side, number)
    write_lmdb(tmp_path / "in", tmp_path / "out.lmdb", 1, 1)
    with lmdb.open(str(tmp_path / "out.lmdb"), readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == len(sides)
    data = sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    assert (tmp_path / "out.lmdb/data.mdb").stat().st_size < 1.1 * data + 4096 * 2 * len(sides)


def test_two_images_of_one_name_are_refused(images: Path, tmp_path: Path) -> None:
    save(images / "0001_s001.bmp")
    with pytest.raises(UserError, match="same name"):
        write_lmdb(images, tmp_path / "out.lmdb", 1, 1)
    assert not (tmp_path / "out.lmdb").exists()


def test_a_failure_leaves_nothing(images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        write_lmdb(images, tmp_path / "out.lmdb", 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hr"]


def test_an_lmdb_that_is_there_is_kept_or_refused_but_not_replaced(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.lmdb"
    write_lmdb(images, output, 1, 1)
    before = contents(output)
    assert write_lmdb(images, output, 1, 1) == (3, False, None)
    save(images / "new.png")
    with pytest.raises(UserError, match="is not the LMDB of"):
        write_lmdb(images, output, 1, 1)
    assert contents(output) == before


def test_names_that_basicsr_or_lmdb_do_not_take(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"must end in \.lmdb"):
        write_lmdb(images, tmp_path / "out", 1, 1)
    monkeypatch.setattr(lmdb_writer, "LONGEST_KEY", 8)
    with pytest.raises(UserError, match="no key of LMDB"):
        write_lmdb(images, tmp_path / "out.lmdb", 1, 1)


def test_lr_images_made_here_pair_up_with_hr_in_basicsr(images: Path, tmp_path: Path, basicsr: ModuleType) -> None:
    from basicsr.data.paired_image_dataset import PairedImageDataset

    list(make_lr(images, tmp_path / "lr", [2], 1)[1])
    write_lmdb(images, tmp_path / "hr.lmdb", 1, 1)
    assert write_lmdb(tmp_path / "lr/X2", tmp_path / "lr.lmdb", 1, 1) == (3, True, 2)
    places = {"dataroot_gt": str(tmp_path / "hr.lmdb"), "dataroot_lq": str(tmp_path / "lr.lmdb")}
    theirs = PairedImageDataset({**places, "io_backend": {"type": "lmdb"}, "scale": 2, "phase": "val"})
    assert lmdb_pairs(places["dataroot_gt"], places["dataroot_lq"], scale=2).names == [file.stem for file in list_images(images)]
    for index in range(3):
        found = theirs[index]["lq"].numpy().transpose(1, 2, 0) * 255
        np.testing.assert_allclose(found, downscale(read_rgb(list_images(images)[index]), 2), atol=1e-3)


def test_an_lmdb_of_another_folder_or_with_images_missing_is_not_kept(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.lmdb"
    write_lmdb(images, output, 1, 1)
    shutil.copytree(images, tmp_path / "copy")
    with pytest.raises(UserError, match="is not the LMDB of"):
        write_lmdb(tmp_path / "copy", output, 1, 1)
    with lmdb.open(str(output)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"0001_s001")
    with pytest.raises(UserError, match="is not the LMDB of"):
        write_lmdb(images, output, 1, 1)


def test_a_second_run_does_not_disturb_the_first(images: Path, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(UserError, match="another run is writing"):
            write_lmdb(images, tmp_path / "out.lmdb", 1, 1)

    write_lmdb(images, tmp_path / "out.lmdb", 1, 1, second)
    assert write_lmdb(images, tmp_path / "out.lmdb", 1, 1) == (3, False, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hr", "out.lmdb"]


@pytest.mark.parametrize("full", ["before", "meanwhile"])
def test_a_full_disk_is_said(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    def fail(*_: object) -> None:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    if full == "before":
        monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    else:
        monkeypatch.setattr(lmdb_writer, "_commit", fail)
    with pytest.raises(UserError, match=r"1,000 left|cannot be written to: .*Input/output error"):
        write_lmdb(images, tmp_path / "out.lmdb", 1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hr"]
