"""Finding what is wrong with data sets, and nothing in those that are right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_nas.data.layouts import recognise
from sr_nas.data.pairs import read_meta_info
from sr_nas.errors import UserError
from sr_nas.images.files import list_images, read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.preparation.check import Findings, check
from tests.preparation.images import noise, save


def look(*folders: Path, duplicates: bool = True) -> Findings:
    return check([layout for folder in folders for layout in recognise(folder)], 1, duplicates)


def pictures(found: Findings) -> set[tuple[str, str]]:
    return {(pair.one.name, pair.other.name) for pair in found.duplicates}


@pytest.fixture
def div2k(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        image = noise(24, 36, number)
        write_image(tmp_path / f"DIV2K_train_HR/{number:04}.png", image)
        for scale in (2, 3):
            write_image(tmp_path / f"DIV2K_train_LR_bicubic/X{scale}/{number:04}x{scale}.png", downscale(image, scale))
    return tmp_path


def test_a_sound_set_is_fine(div2k: Path) -> None:
    found = look(div2k)
    assert found.fine
    assert found.counts == [("DIV2K_train", "HR", 3), ("DIV2K_train", "x2", 3), ("DIV2K_train", "x3", 3)]
    assert look(div2k / "DIV2K_train_HR").counts == found.counts


def test_an_image_is_no_duplicate_of_itself(div2k: Path) -> None:
    assert look(div2k, div2k / "DIV2K_train_HR").fine


def test_names_without_partner_are_listed(div2k: Path) -> None:
    (div2k / "DIV2K_train_HR/0002.png").unlink()
    (div2k / "DIV2K_train_LR_bicubic/X3/0003x3.png").unlink()
    found = look(div2k)
    assert found.unpaired == [("DIV2K_train", 2, [], ["0002x2"]), ("DIV2K_train", 3, ["0003"], ["0002x3"])]
    assert not found.fine


def test_sizes_that_do_not_fit_the_scale_are_listed(div2k: Path) -> None:
    save(div2k / "DIV2K_train_LR_bicubic/X2/0001x2.png", 12, 17)
    (misfit,) = look(div2k).misfits
    assert "0001x2.png has 17x12, expected 18x12" in misfit


def test_unreadable_files_are_listed(div2k: Path) -> None:
    file = div2k / "DIV2K_train_HR/0001.png"
    file.write_bytes(file.read_bytes()[:200])
    (div2k / "DIV2K_train_LR_bicubic/X2/0002x2.png").write_bytes(b"")
    found = look(div2k)
    assert ["0001.png" in found.unreadable[0], "0002x2.png" in found.unreadable[1]] == [True, True]
    assert (len(found.unreadable), found.misfits, found.unpaired) == (2, [], [])


def test_a_list_is_compared_with_what_is_there(div2k: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeff0001.png (24,36,3)\n0002.png (24,35,3) 1\nsub/0009.png\n")
    listed = read_meta_info(tmp_path / "list.txt")
    assert listed == {"0001": (24, 36), "0002": (24, 35), "0009": None}
    found = check(recognise(div2k), 1, False, listed)
    assert [line.rpartition("/")[2] for line in found.unlisted] == [
        "0002.png has 36x24, the list says 35x24",
        "'0009' is listed, and not there",
        "0003.png is there, and not listed",
    ]
    (tmp_path / "list.txt").write_text("0001.png\nno list\n")
    with pytest.raises(UserError, match="line 2: 'no list'"):
        read_meta_info(tmp_path / "list.txt")


def test_known_duplicates_of_the_benchmark_sets_and_no_others(shared: Path, tmp_path: Path) -> None:
    """Set5's head is Set14's face, cut a little and saved anew; T91 has one image twice."""
    data = shared / "data"
    (tmp_path / "T91").mkdir()
    for file in list_images(data / "train/T91"):
        if file.stem[1] in "36":
            (tmp_path / "T91" / file.name).symlink_to(file)
    found = look(data / "Set5", data / "Set14", tmp_path / "T91")
    assert pictures(found) == {("head.bmp", "face.png"), ("t36.bmp", "t65.bmp")}
    likeness = {pair.one.name: pair.likeness for pair in found.duplicates}
    assert likeness["t36.bmp"] == 1
    assert 0.99 < likeness["head.bmp"] < 1


def test_parts_of_photos_are_found_among_others(shared: Path, tmp_path: Path) -> None:
    """As Set5's woman is a part of a photo of BSDS: cut anywhere to half the sides and more, resized, JPEG of quality 60."""
    photos = list_images(shared / "data/train/BSDS200")[::8]
    random = np.random.default_rng(0)
    (tmp_path / "parts").mkdir()
    for file in photos:
        image = read_rgb(file)
        height, width = (int(side * random.uniform(0.5, 1)) for side in image.shape[:2])
        ratio = random.uniform(0.93, 1.07) * image.shape[1] / image.shape[0]
        height = max(min(height, image.shape[0]), -(-image.shape[0] // 2))
        width = max(min(round(height * ratio), image.shape[1]), -(-image.shape[1] // 2))
        top, left = random.integers(0, image.shape[0] - height + 1), random.integers(0, image.shape[1] - width + 1)
        part = cv2.resize(image[top : top + height, left : left + width], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / f"parts/{file.stem}_part.jpg"), part[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
    (tmp_path / "photos").mkdir()
    for file in photos:
        (tmp_path / "photos" / file.name).symlink_to(file)
    assert pictures(look(tmp_path / "photos", tmp_path / "parts")) == {(file.name, f"{file.stem}_part.jpg") for file in photos}


def test_copies_in_another_format_are_exact_and_flat_images_are_no_likeness(tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        write_image(tmp_path / suffix / "a.png", noise(40, 40))
        write_image(tmp_path / suffix / f"flat_{suffix}.png", np.full((40, 40, 3), len(suffix) * 9 + (suffix == "png"), np.uint8))
    write_image(tmp_path / "bmp/a.bmp", noise(40, 40))
    (tmp_path / "bmp/a.png").unlink()
    (pair,) = look(tmp_path / "png", tmp_path / "bmp").duplicates
    assert (pair.one.name, pair.other.name, pair.likeness) == ("a.png", "a.bmp", 1)
    assert look(tmp_path / "png", tmp_path / "bmp", duplicates=False).fine
