"""Finding what is wrong with data sets, and nothing in those that are right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from preparation.check import Fingerprint, check, find_duplicates, fingerprint_of

from sr_nas.data.layouts import find_sets, read_meta_info
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.folders import list_images
from sr_nas.images.resize import downscale, modcrop
from tests.preparation.images import noise, save


def problems(*folders: Path, duplicates: bool = True) -> dict[str, list[str]]:
    findings = check([layout for folder in folders for layout in find_sets(folder)], 1, duplicates)
    return {title: lines for title, lines in findings.problems.items() if lines}


@pytest.fixture
def div2k(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        image = noise(24, 36, number)
        write_image(tmp_path / f"DIV2K_train_HR/{number:04}.png", image)
        for scale in (2, 3):
            write_image(tmp_path / f"DIV2K_train_LR_bicubic/X{scale}/{number:04}x{scale}.png", downscale(image, scale))
    return tmp_path


def test_a_sound_set_is_fine_and_its_images_are_no_duplicates_of_themselves(div2k: Path) -> None:
    assert problems(div2k) == problems(div2k, div2k / "DIV2K_train_HR") == {}
    for folder in (div2k, div2k / "DIV2K_train_HR"):
        assert check(find_sets(folder), 1).counts == [
            "DIV2K_train HR: 3 images",
            "DIV2K_train x2: 3 images",
            "DIV2K_train x3: 3 images",
        ]


def test_names_without_partner_are_listed(div2k: Path) -> None:
    (div2k / "DIV2K_train_HR/0002.png").unlink()
    (div2k / "DIV2K_train_LR_bicubic/X3/0003x3.png").unlink()
    assert problems(div2k) == {
        "DIV2K_train x2, LR without HR": ["0002x2"],
        "DIV2K_train x3, HR without LR": ["0003"],
        "DIV2K_train x3, LR without HR": ["0002x3"],
    }


def test_sizes_that_do_not_fit_the_scale_are_listed(div2k: Path) -> None:
    save(div2k / "DIV2K_train_LR_bicubic/X2/0001x2.png", 12, 17)
    (line,) = problems(div2k)["LR images of the wrong size"]
    assert "0001x2.png has 17x12, expected 18x12" in line


def test_unreadable_files_are_listed(div2k: Path) -> None:
    file = div2k / "DIV2K_train_HR/0001.png"
    file.write_bytes(file.read_bytes()[:200])
    (div2k / "DIV2K_train_LR_bicubic/X2/0002x2.png").write_bytes(b"")
    (title,) = found = problems(div2k)
    assert title == "cannot be read"
    assert ["0001.png" in found[title][0], "0002x2.png" in found[title][1], len(found[title])] == [True, True, 2]


def test_links_that_lead_nowhere_are_listed_one_by_one(div2k: Path) -> None:
    for name in ("0002", "0003"):
        (div2k / f"DIV2K_train_HR/{name}.png").unlink()
        (div2k / f"DIV2K_train_HR/{name}.png").symlink_to("/nowhere/annex")
    (div2k / "DIV2K_train_HR/loop.png").symlink_to("loop.png")
    found = problems(div2k)
    names = [line.partition(": ")[0].rpartition("/")[2] for line in found.pop("cannot be read")]
    assert names == ["0002.png", "0003.png", "loop.png"]
    assert found == {"DIV2K_train x2, HR without LR": ["loop"], "DIV2K_train x3, HR without LR": ["loop"]}


def test_a_list_is_compared_with_the_folder(div2k: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeff0001.png (24,36,3)\n0002.png (24,35,3) 1\nsub/0009.png\n")
    listed = read_meta_info(tmp_path / "list.txt")
    assert listed == {"0001": (24, 36), "0002": (24, 35), "0009": None}
    (lines,) = (lines for lines in check(find_sets(div2k), 1, False, listed).problems.values() if lines)
    assert [line.rpartition("/")[2] for line in lines] == [
        "0002.png has 36x24, the list says 35x24",
        "'0009' is listed, but missing",
        "0003.png is not listed",
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
    lines = problems(data / "Set5", data / "Set14", tmp_path / "T91")["show the same picture"]
    names = [line.replace(f"{data}/", "").replace(f"{tmp_path}/", "") for line in lines]
    assert names == [
        "Set5/HR/head.bmp and Set14/HR/face.png: 8 of 256 bits of their hashes differ",
        "T91/t36.bmp and T91/t65.bmp: every pixel",
    ]


def test_copies_of_photos_are_found_among_others(shared: Path) -> None:
    """Resized to half and JPEG of quality 30; no two of the photos themselves are taken for one."""
    files = list_images(shared / "data/train/BSDS200")[::5]
    photos = [fingerprint_of(file, read_rgb(file)) for file in files]
    copies = []
    for file in files:
        small = cv2.resize(read_rgb(file), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
        copies.append(fingerprint_of(file.with_suffix(".copy"), cv2.imdecode(data, cv2.IMREAD_COLOR)))
    pairs = find_duplicates([*photos, *copies])
    assert [(one, other) for one, other, _ in pairs] == [(file, file.with_suffix(".copy")) for file in files]
    assert max(distance or 0 for *_, distance in pairs) <= 16


def test_the_largest_distance_of_duplicates() -> None:
    """32 bits of 256, over more images than are compared at a time."""
    random = np.random.default_rng(0)
    images = [Fingerprint(Path(str(n)), str(n), random.choice(np.float32([-1, 1]), 256)) for n in range(600)]
    for number, flipped in ((598, 33), (599, 32)):
        images[number] = Fingerprint(Path(str(number)), str(number), images[number - 598].bits.copy())
        images[number].bits[:flipped] *= -1
    assert find_duplicates(images) == [(Path("1"), Path("599"), 32)]


def test_copies_in_another_format_are_exact_and_flat_images_resemble_nothing(tmp_path: Path) -> None:
    for suffix in ("png", "bmp"):
        write_image(tmp_path / suffix / f"a.{suffix}", noise(40, 40))
        write_image(tmp_path / suffix / f"flat_{suffix}.png", np.full((40, 40, 3), ord(suffix[0]), np.uint8))
    (line,) = problems(tmp_path / "png", tmp_path / "bmp")["show the same picture"]
    assert line == f"{tmp_path}/png/a.png and {tmp_path}/bmp/a.bmp: every pixel"
    assert problems(tmp_path / "png", tmp_path / "bmp", duplicates=False) == {}


def test_selfexsr_has_hr_images_cropped_for_each_scale(tmp_path: Path) -> None:
    """Of 50x33 pixels the crop for x2 has 50x32, that for x3 48x33: each LR image is of its own crop."""
    image = noise(33, 50)
    for scale in (2, 3, 4):
        stem = f"image_SRF_{scale}/img_001_SRF_{scale}"
        write_image(tmp_path / f"{stem}_HR.png", modcrop(image, scale))
        write_image(tmp_path / f"{stem}_LR.png", downscale(image, scale))
    assert problems(tmp_path) == {}
    save(tmp_path / "image_SRF_3/img_001_SRF_3_LR.png", 10, 16)
    assert list(problems(tmp_path)) == ["LR images of the wrong size"]
