"""Data sets as those who publish them lay them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.layouts import recognise
from sr_nas.errors import UserError
from sr_nas.images.files import write_image


def save(folder: Path, *names: str, height: int = 8) -> None:
    for name in names:
        write_image(folder / name, np.zeros((height, 8, 3), np.uint8))


def seen(folder: Path) -> list[tuple[str, list[str], dict[int, list[str]]]]:
    return [
        (found.name, list(found.hr), {scale: list(files) for scale, files in found.lr.items()}) for found in recognise(folder)
    ]


def test_div2k(tmp_path: Path) -> None:
    save(tmp_path, "DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "DIV2K_train_LR_bicubic/X2/0001x2.png")
    train, valid = ("DIV2K_train", ["0001"], {2: ["0001x2"]}), ("DIV2K_valid", ["0801"], {})
    assert seen(tmp_path) == [train, valid]
    assert seen(tmp_path / "DIV2K_train_HR") == [train]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("Set5/HR/a.png", "Set5/LR_bicubic/X3/ax3.png"),
        ("Set5/HR/a.png", "Set5/LR_matlab/x3/ax3.png"),
        ("Set5/GTmod12/a.png", "Set5/LRbicx3/ax3.png"),
        ("Set5/a.png", "Set5_LR/x3/ax3.png"),
    ],
)
def test_benchmark_sets(tmp_path: Path, hr: str, lr: str) -> None:
    save(tmp_path, hr, lr)
    assert seen(tmp_path / "Set5") == [("Set5", ["a"], {3: ["ax3"]})]


def test_selfexsr_takes_the_largest_crop_and_no_results(tmp_path: Path) -> None:
    place = tmp_path / "Urban100"
    for scale, height in ((2, 8), (3, 9), (4, 8)):
        stem = f"image_SRF_{scale}/img_001_SRF_{scale}"
        save(place, f"{stem}_HR.png", f"{stem}_LR.png", f"{stem}_SRCNN.png", height=height)
    assert seen(place) == [("Urban100", ["img_001"], {scale: ["img_001"] for scale in (2, 3, 4)})]
    (found,) = recognise(place)
    assert found.hr["img_001"].name == "img_001_SRF_3_HR.png"


def test_nothing_known_lists_what_was_tried(tmp_path: Path) -> None:
    save(tmp_path, "deep/down/a.png")
    with pytest.raises(UserError) as error:
        recognise(tmp_path)
    for tried in ("DIV2K_train_HR", "image_SRF_2/img_001_SRF_2_HR.png", "GTmod12", "LR_matlab/x", "found deep/"):
        assert tried in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        recognise(tmp_path / "gone")
