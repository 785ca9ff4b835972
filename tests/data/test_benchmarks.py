"""Finding the HR and LR images of a benchmark set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_nas.data.layouts import resolve_set
from sr_nas.errors import UserError


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 4, 3), np.uint8))
    return folder


@pytest.mark.parametrize("hr", ["HR", "GT", "GTmod12", "original"])
@pytest.mark.parametrize("lr", ["LR_matlab/x2", "LR_matlab/X2", "LR_bicubic/X2", "LR_bicubic/x2", "LR/x2", "LR/X2", "LRbicx2"])
def test_known_layouts(tmp_path: Path, hr: str, lr: str) -> None:
    images(tmp_path / "Set7" / hr)
    images(tmp_path / "Set7" / lr)
    assert resolve_set(tmp_path / "Set7", 2) == ("Set7", tmp_path / "Set7" / hr, tmp_path / "Set7" / lr)
    assert resolve_set(tmp_path / "Set7", 3) == ("Set7", tmp_path / "Set7" / hr, None)


def test_a_folder_of_images_is_a_set(tmp_path: Path) -> None:
    photos, lr = images(tmp_path / "photos"), images(tmp_path / "small")
    assert resolve_set(photos, 2) == ("photos", photos, None)
    assert resolve_set(photos, 2, lr) == ("photos", photos, lr)


def test_lr_may_lie_beside_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hr, lr = images(tmp_path / "Set7"), images(tmp_path / "Set7_LR" / "x2")
    assert resolve_set(hr, 2) == ("Set7", hr, lr)
    assert resolve_set(hr, 3) == ("Set7", hr, None)
    monkeypatch.chdir(hr)
    assert resolve_set(Path("."), 2) == ("Set7", Path("."), lr)


def test_a_set_is_named_after_the_folder_above_hr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hr = images(tmp_path / "Set7" / "HR")
    assert resolve_set(hr, 2) == ("Set7", hr, None)
    monkeypatch.chdir(hr)
    assert resolve_set(Path("."), 2)[0] == "Set7"


def test_a_given_lr_folder_goes_before_one_that_is_found(tmp_path: Path) -> None:
    images(tmp_path / "Set7/HR")
    images(tmp_path / "Set7/LR/x2")
    other = images(tmp_path / "other")
    assert resolve_set(tmp_path / "Set7", 2, other)[2] == other


def test_nothing_recognised_lists_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "Set7").mkdir()
    with pytest.raises(UserError) as error:
        resolve_set(tmp_path / "Set7", 4)
    for tried in ("HR", "GT", "original", "LR_matlab/x4", "LR_bicubic/X4", "LR/x4", ".png"):
        assert tried in str(error.value)


def test_selfexsr_is_told_how_to_become_one(tmp_path: Path) -> None:
    images(tmp_path / "Set7/image_SRF_2")
    with pytest.raises(UserError, match="prepare_data SET --from"):
        resolve_set(tmp_path / "Set7", 2)


def test_a_folder_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    images(tmp_path / "Set14")
    with pytest.raises(UserError, match=r"Set41' does not exist - did you mean 'Set14'\?"):
        resolve_set(tmp_path / "Set41", 2)
    with pytest.raises(UserError, match=r"LR' does not exist"):
        resolve_set(tmp_path / "Set14", 2, tmp_path / "LR")


def test_set5(shared: Path) -> None:
    place = shared / "data/Set5"
    assert resolve_set(place, 4) == ("Set5", place / "HR", place / "LR_matlab/x4")
