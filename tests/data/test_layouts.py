"""Image sets in the layouts in which they are published and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.layouts import find_sets
from sr_nas.data.sources import benchmark_set
from sr_nas.errors import UserError
from sr_nas.images.files import write_image


def save(folder: Path, *names: str, height: int = 8) -> None:
    for name in names:
        write_image(folder / name, np.zeros((height, 8, 3), np.uint8))


def contents(folder: Path) -> list[tuple[str, list[str], dict[int, list[str]]]]:
    return [(each.name, list(each.hr), {scale: list(files) for scale, files in each.lr.items()}) for each in find_sets(folder)]


def opened(path: Path, scale: int, lr: Path | None = None) -> tuple[str, list[str], Path | None]:
    name, pairs, lr_folder = benchmark_set(path, scale, lr)
    return name, pairs.names, lr_folder


def test_div2k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "DIV2K_train_LR_bicubic/X2/0001x2.png")
    train, valid = ("DIV2K_train", ["0001"], {2: ["0001x2"]}), ("DIV2K_valid", ["0801"], {})
    assert contents(tmp_path) == [train, valid]
    assert contents(tmp_path / "DIV2K_train_HR") == [train]
    monkeypatch.chdir(tmp_path / "DIV2K_train_HR")
    assert contents(Path(".")) == [train]
    with pytest.raises(UserError, match="holds DIV2K_train, DIV2K_valid: name the HR folder of one"):
        benchmark_set(tmp_path, 2)


@pytest.mark.parametrize("hr", ["HR", "GT", "GTmod12", "original"])
@pytest.mark.parametrize("lr", ["LR_matlab/x2", "LR_matlab/X2", "LR_bicubic/X2", "LR_bicubic/x2", "LR/x2", "LR/X2", "LRbicx2"])
def test_benchmark_sets(tmp_path: Path, hr: str, lr: str) -> None:
    place = tmp_path / "Set7"
    save(place, f"{hr}/a.png", f"{lr}/ax2.png")
    assert contents(place) == [("Set7", ["a"], {2: ["ax2"]})]
    assert opened(place, 2) == ("Set7", ["a"], place / lr)
    assert opened(place, 3) == ("Set7", ["a"], None)


def test_any_scale_is_looked_for(tmp_path: Path) -> None:
    save(tmp_path, "HR/a.png", "LR/x5/a.png")
    assert opened(tmp_path, 5)[2] == tmp_path / "LR/x5"


def test_selfexsr_takes_the_crop_of_each_scale_and_no_results(tmp_path: Path) -> None:
    place = tmp_path / "Urban100"
    for scale, height in ((2, 8), (3, 9), (4, 8)):
        stem = f"image_SRF_{scale}/img_001_SRF_{scale}"
        save(place, f"{stem}_HR.png", f"{stem}_SRCNN.png", height=height)
        write_image(place / f"{stem}_LR.png", np.full((height // scale, 8 // scale, 3), scale, np.uint8))
    assert contents(place) == [("Urban100", ["img_001"], {scale: ["img_001"] for scale in (2, 3, 4)})]
    assert find_sets(place)[0].hr["img_001"].name == "img_001_SRF_3_HR.png", "the largest"
    for scale, height in ((2, 8), (3, 9)):
        name, pairs, _ = benchmark_set(place, scale)
        assert (name, pairs.hr(0).shape[0], pairs.lr(0).max()) == ("Urban100", height, scale)


def test_a_folder_of_images_is_a_set(tmp_path: Path) -> None:
    save(tmp_path, "photos/a.png", "small/ax2.png")
    assert opened(tmp_path / "photos", 2) == ("photos", ["a"], None)
    assert opened(tmp_path / "photos", 2, tmp_path / "small") == ("photos", ["a"], tmp_path / "small")


def test_lr_may_lie_beside_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "Set7/a.png", "Set7_LR/x2/a.png")
    assert opened(tmp_path / "Set7", 2) == ("Set7", ["a"], tmp_path / "Set7_LR/x2")
    monkeypatch.chdir(tmp_path / "Set7")
    assert opened(Path("."), 2) == ("Set7", ["a"], tmp_path / "Set7_LR/x2")


def test_a_set_is_named_after_the_folder_above_hr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "Set7/HR/a.png")
    assert opened(tmp_path / "Set7/HR", 2)[0] == "Set7"
    monkeypatch.chdir(tmp_path / "Set7/HR")
    assert opened(Path("."), 2)[0] == "Set7"


def test_the_lr_folder_of_the_command_line_goes_before_that_of_the_layout(tmp_path: Path) -> None:
    save(tmp_path, "Set7/HR/a.png", "Set7/LR/x2/a.png", "other/a.png")
    assert opened(tmp_path / "Set7", 2, tmp_path / "other")[2] == tmp_path / "other"


@pytest.mark.parametrize("lost", ["LR_matlab", "LR_matlab/x2", "HR"])
def test_a_folder_that_is_a_link_to_nothing_is_not_taken_for_missing(tmp_path: Path, lost: str) -> None:
    """Without the error LR would be made from HR, and the scores would be those of other images."""
    save(tmp_path, "HR/a.png", "LR_matlab/x2/a.png")
    (tmp_path / lost).rename(tmp_path / "elsewhere")
    (tmp_path / lost).symlink_to("/nowhere")
    with pytest.raises(UserError, match=rf"{lost} cannot be read as a folder: it is a link to /nowhere"):
        find_sets(tmp_path)


def test_an_unknown_layout_lists_what_was_tried(tmp_path: Path) -> None:
    save(tmp_path, "deep/down/a.png")
    with pytest.raises(UserError) as error:
        find_sets(tmp_path)
    for tried in ("DIV2K_train_HR", "image_SRF_2/img_001_SRF_2_HR.png", "GTmod12", "LR_matlab/x", "found deep/", ".png"):
        assert tried in str(error.value)


def test_a_folder_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    save(tmp_path, "Set14/a.png")
    with pytest.raises(UserError, match=r"Set41' does not exist - did you mean 'Set14'\?"):
        find_sets(tmp_path / "Set41")
    with pytest.raises(UserError, match=r"LR does not exist"):
        benchmark_set(tmp_path / "Set14", 2, tmp_path / "LR")


def test_set5(shared: Path) -> None:
    place = shared / "data/Set5"
    assert opened(place, 4) == ("Set5", ["baby", "bird", "butterfly", "head", "woman"], place / "LR_matlab/x4")
