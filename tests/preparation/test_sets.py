"""From an archive at an address, or a copy of any layout, to the folders that option files name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.layouts import recognise, resolve_set
from sr_nas.data.sources import folder
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.resize import downscale, modcrop
from sr_nas.preparation.adopt import adopt
from sr_nas.preparation.catalog import SETS, Part
from sr_nas.preparation.check import check
from sr_nas.preparation.download import is_there, parts_of, prepare
from sr_nas.preparation.outputs import Placed
from tests.preparation.images import contents, noise, save
from tests.preparation.server import Site, serving

NAMES = ("baby", "bird", "butterfly", "head", "woman")


def make_set5(place: Path, hr: str = "{}.png", lr: str = "LR_bicubic/X{1}/{0}x{1}.png") -> Path:
    """Five images and their LR images, named by a layout."""
    for number, name in enumerate(NAMES):
        image = noise(24 + number, 37, number)
        write_image(place / hr.format(name), image)
        for scale in (2, 3, 4):
            write_image(place / lr.format(name, scale), downscale(image, scale))
    return place


def packed(place: Path, top: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(place, top)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_set5(tmp_path / "made", "HR/{}.png")
    save(made / "HR" / "._baby.png")
    with serving(Site(packed(made, "benchmark/Set5"))) as running:
        yield running


def fetch(site: Site, root: Path, parts: list[Part] | None = None) -> dict[str, Placed | None]:
    archive = replace(SETS["set5"][0].archive, url=site.url, checksum=None)
    wanted = [replace(part, archive=archive) for part in parts or SETS["set5"]]
    done = prepare(wanted, root, lambda archive: lambda done, total: None, lambda part, number: None)
    return {part.folder: placed for part, placed in done}


def test_a_published_archive_becomes_the_projects_layout(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    done = fetch(site, root)
    assert list(done) == ["Set5/HR", "Set5/LR_matlab/x2", "Set5/LR_matlab/x3", "Set5/LR_matlab/x4"]
    assert contents(root / "Set5/HR") == {
        name: data for name, data in contents(tmp_path / "made/HR").items() if not name.startswith(".")
    }
    assert sorted(path.name for path in root.iterdir()) == ["Set5", "archives"]
    for scale in (2, 3, 4):
        _, hr, lr = resolve_set(root / "Set5", scale)
        pairs = folder([str(hr)], [str(lr)], scale=scale)
        assert pairs.names == list(NAMES)
        for index in range(5):
            np.testing.assert_array_equal(pairs.lr(index), downscale(pairs.hr(index), scale))


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    asked = len(site.asked)
    assert set(fetch(site, tmp_path).values()) == {None}
    assert len(site.asked) == asked == 1


def test_a_missing_image_comes_back_and_an_edited_one_stays(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path)
    edited = save(tmp_path / "Set5/HR/baby.png", seed=99).read_bytes()
    (tmp_path / "Set5/HR/bird.png").unlink()
    placed = fetch(site, tmp_path)["Set5/HR"]
    assert placed is not None
    assert (placed.written, placed.different) == (["bird.png"], ["baby.png"])
    assert (tmp_path / "Set5/HR/baby.png").read_bytes() == edited


def test_a_stop_in_the_middle_leaves_no_folder_and_the_next_run_completes_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "datasets"
    unpacked = 0

    def stop(part: Part, number: int) -> None:
        nonlocal unpacked
        unpacked += 1
        if unpacked == 8:
            raise KeyboardInterrupt

    parts = [replace(part, archive=replace(part.archive, url=site.url, checksum=None)) for part in SETS["set5"]]
    with pytest.raises(KeyboardInterrupt):
        list(prepare(parts, root, lambda archive: lambda done, total: None, stop))
    assert [is_there(part, root) for part in parts] == [True, False, False, False]
    assert [path.name for path in (root / "Set5/LR_matlab").iterdir()] == []
    (root / "Set5/LR_matlab/.x2-unfinished").mkdir()
    save(root / "Set5/LR_matlab/.x2-unfinished/half.png")
    done = fetch(site, root)
    assert done["Set5/HR"] is None
    assert sorted(path.name for path in (root / "Set5/LR_matlab").iterdir()) == ["x2", "x3", "x4"]
    assert "half.png" not in contents(root / "Set5/LR_matlab/x2")


def test_an_archive_of_another_content_lists_what_it_holds(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 0 images in 'benchmark/Set14/HR', expected 14(.|\n)*benchmark/Set5/HR"):
        fetch(site, tmp_path, list(SETS["set14"]))
    assert contents(tmp_path / "Set14") == {}


def test_scales_and_splits_choose_parts() -> None:
    assert [part.folder for part in parts_of(["div2k", "set5"], [3], ["valid"])] == [
        "DIV2K/DIV2K_valid_HR",
        "DIV2K/DIV2K_valid_LR_bicubic/X3",
        "Set5/HR",
        "Set5/LR_matlab/x3",
    ]


def test_several_sets_of_one_archive_fetch_it_once() -> None:
    assert len({part.archive for part in parts_of(["set5", "set14", "b100", "urban100"], [2, 3, 4], [])}) == 1


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("Set5/HR/{}.png", "Set5/LR_bicubic/X{1}/{0}x{1}.png"),  # EDSR
        ("Set5/{}.bmp", "Set5_LR/x{1}/{0}x{1}.bmp"),  # IMDN
        ("Set5/GTmod12/{}.png", "Set5/LRbicx{1}/{0}.png"),  # BasicSR
        ("old/original/{}.png", "old/LR/x{1}/{0}.png"),
    ],
)
@pytest.mark.parametrize("as_archive", [False, True])
def test_copies_of_other_layouts_become_the_projects(tmp_path: Path, hr: str, lr: str, as_archive: bool) -> None:
    source = make_set5(tmp_path / "copy", hr, lr)
    before = contents(source)
    if as_archive:
        (tmp_path / "copy.tar").write_bytes(packed(source, "some/where"))
    done = dict(adopt(tmp_path / "copy.tar" if as_archive else source, tmp_path / "root" / "Set5", 5))
    suffix = hr[-4:]
    assert sorted(contents(tmp_path / "root")) == sorted(
        [f"Set5/HR/{name}{suffix}" for name in NAMES]
        + [f"Set5/LR_matlab/x{scale}/{name}x{scale}{suffix}" for name in NAMES for scale in (2, 3, 4)]
    )
    assert len(done) == 4
    assert contents(source) == before
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["Set5"]


def test_selfexsr_crops_for_each_scale_become_one_set(tmp_path: Path) -> None:
    """Its HR images are cropped for their scale; the largest crop gives the LR images of every scale."""
    for number in range(1, 6):
        image = noise(24, 27 + number, number)
        for scale in (2, 3, 4):
            stem = f"Set5/image_SRF_{scale}/img_{number:03}_SRF_{scale}"
            write_image(tmp_path / f"{stem}_HR.png", modcrop(image, scale))
            write_image(tmp_path / f"{stem}_LR.png", downscale(image, scale))
            write_image(tmp_path / f"{stem}_bicubic.png", modcrop(image, scale))
    list(adopt(tmp_path, tmp_path / "root/Set5", 5))
    assert sorted(contents(tmp_path / "root/Set5/HR")) == [f"img_00{number}.png" for number in range(1, 6)]
    for scale in (2, 3, 4):
        for number in range(1, 6):
            hr = read_rgb(tmp_path / f"root/Set5/HR/img_00{number}.png")
            lr = read_rgb(tmp_path / f"root/Set5/LR_matlab/x{scale}/img_00{number}x{scale}.png")
            np.testing.assert_array_equal(lr, downscale(hr, scale))


def test_of_two_sets_of_one_size_the_one_of_the_name_is_taken(tmp_path: Path) -> None:
    make_set5(tmp_path / "all/A", "HR/{}.png")
    make_set5(tmp_path / "all/Set5", "HR/{}.png", "LR/x{1}/{0}.png")
    save(tmp_path / "all/Set5/HR/woman.png", 28, 37, seed=50)
    list(adopt(tmp_path / "all", tmp_path / "root/Set5", 5))
    assert contents(tmp_path / "root/Set5/HR") == contents(tmp_path / "all/Set5/HR")
    with pytest.raises(UserError, match="several sets of 5 images, and none is called Other"):
        list(adopt(tmp_path / "all", tmp_path / "root/Other", 5))


def test_an_unknown_layout_lists_what_was_tried(tmp_path: Path) -> None:
    save(tmp_path / "copy/pictures/a.png")
    with pytest.raises(UserError) as error:
        list(adopt(tmp_path / "copy", tmp_path / "root/Set5", 5))
    for told in ("no set of 5 HR images", "GTmod12", "LRbicx2", "DIV2K_train_HR", "image_SRF_2", "holds 1 images"):
        assert told in str(error.value)


def test_lr_images_that_do_not_fit_are_not_taken(tmp_path: Path) -> None:
    source = make_set5(tmp_path / "copy", "HR/{}.png")
    save(source / "LR_bicubic/X3/birdx3.png", 9, 9)
    with pytest.raises(UserError, match=r"birdx3\.png has 9x9 pixels, expected 12x8"):
        list(adopt(source, tmp_path / "root/Set5", 5))
    assert not (tmp_path / "root").exists()


def test_a_copy_in_another_format_is_the_same_image(tmp_path: Path) -> None:
    make_set5(tmp_path / "bmp", "HR/{}.bmp")
    make_set5(tmp_path / "png", "HR/{}.png")
    list(adopt(tmp_path / "bmp", tmp_path / "root/Set5", 5, [2]))
    (tmp_path / "root/Set5/HR/bird.bmp").unlink()
    save(tmp_path / "root/Set5/HR/baby.bmp", seed=9)
    placed = dict(adopt(tmp_path / "png", tmp_path / "root/Set5", 5, [2]))[tmp_path / "root/Set5/HR"]
    assert (placed.written, placed.different) == (["bird.png"], ["baby.bmp"])
    assert len(placed.same) == 3
    assert len(contents(tmp_path / "root/Set5/HR")) == 5


def test_lr_images_are_not_taken_for_hr(tmp_path: Path) -> None:
    make_set5(tmp_path / "copy", "HR/{}.png")
    with pytest.raises(UserError, match="named as LR images of scale 2"):
        list(adopt(tmp_path / "copy/LR_bicubic/X2", tmp_path / "root/Set5", 5))


def test_scales_of_a_copy_are_chosen_or_missed(tmp_path: Path) -> None:
    make_set5(tmp_path / "copy", "HR/{}.png")
    with pytest.raises(UserError, match="no LR images of scale 8, only of 2, 3, 4"):
        list(adopt(tmp_path / "copy", tmp_path / "root/Set5", 5, [2, 8]))


def test_what_a_kill_left_of_an_unpacked_copy_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "copy.tar").write_bytes(packed(make_set5(tmp_path / "copy", "HR/{}.png"), "x"))
    save(tmp_path / "root/.Set5-unpacked-unfinished/half.png")
    list(adopt(tmp_path / "copy.tar", tmp_path / "root/Set5", 5))
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["Set5"]


def test_selfexsr_crops_of_which_none_holds_the_others(tmp_path: Path) -> None:
    """Of 50x33 pixels the crop for x2 has 50x32, that for x3 48x33: sound, and x3 LR is taken as far as HR reaches."""
    image = noise(33, 50)
    for scale in (2, 3, 4):
        stem = f"Set1/image_SRF_{scale}/img_001_SRF_{scale}"
        write_image(tmp_path / f"{stem}_HR.png", modcrop(image, scale))
        write_image(tmp_path / f"{stem}_LR.png", downscale(image, scale))
    assert check(recognise(tmp_path / "Set1"), 1).fine
    list(adopt(tmp_path / "Set1", tmp_path / "root/Set1", 1))
    assert check(recognise(tmp_path / "root/Set1"), 1).fine
    lr = read_rgb(tmp_path / "root/Set1/LR_matlab/x3/img_001x3.png")
    np.testing.assert_array_equal(lr, downscale(image, 3)[:10])
    save(tmp_path / "Set1/image_SRF_3/img_001_SRF_3_LR.png", 10, 16)
    assert len(check(recognise(tmp_path / "Set1"), 1).misfits) == 1
