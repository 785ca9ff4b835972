"""Sub-images of HR and LR, cut at the same places."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.sources import folder
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.preparation.generate import Grid, crop
from sr_nas.preparation.outputs import Outcome
from tests.preparation.images import contents, noise, save


def run(hr: Path, lr: Path | None, output: Path, grid: Grid, workers: int = 1) -> list[Outcome]:
    total, outcomes = crop(hr, lr, output, grid, workers)
    done = list(outcomes)
    assert len(done) == total
    return done


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
def test_sizes_that_are_no_whole_lr_pixels_are_refused(tmp_path: Path, size: int, step: int, near: str) -> None:
    save(tmp_path / "hr/a.png")
    with pytest.raises(UserError, match=f"must be a multiple of 12, for scales 2, 3, 4: for example {near}"):
        run(tmp_path / "hr", None, tmp_path / "out", Grid(size, step, (2, 3, 4)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_hr_and_lr_are_the_same_places_under_one_name(tmp_path: Path, workers: int) -> None:
    """LR comes from files here, which differ from what would be made of HR."""
    images = {name: noise(31, 45, seed) for seed, name in enumerate(("a", "b"))}
    for (name, image), scale in product(images.items(), (2, 3)):
        write_image(tmp_path / f"hr/{name}.png", image)
        write_image(tmp_path / f"lr/X{scale}/{name}x{scale}.png", noise(31 // scale, 45 // scale, scale))
    done = run(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(24, 12, (2, 3)), workers)
    assert [(outcome.written, outcome.kept) for outcome in done] == [(18, 0), (18, 0)]
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
    run(tmp_path / "hr", None, tmp_path / "out", Grid(12, 12, (2,)))
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/LR/X2/a_s002.png"), downscale(image, 2)[:6, 6:12])


def test_what_is_there_is_kept_and_what_is_missing_or_cut_off_is_made(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    grid = Grid(12, 12, (2,))
    run(tmp_path / "hr", None, tmp_path / "out", grid)
    first = contents(tmp_path / "out")
    (tmp_path / "out/HR/a_s003.png").unlink()
    cut = tmp_path / "out/LR/X2/a_s001.png"
    cut.write_bytes(cut.read_bytes()[:40])
    (outcome,) = run(tmp_path / "hr", None, tmp_path / "out", grid)
    assert (outcome.written, outcome.kept) == (2, 10)
    assert contents(tmp_path / "out") == first


def test_a_folder_is_cut_in_one_way(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    run(tmp_path / "hr", None, tmp_path / "out", Grid(12, 12, (2,)))
    with pytest.raises(UserError, match="Choose another output folder"):
        run(tmp_path / "hr", None, tmp_path / "out", Grid(12, 6, (2,)))
    save(tmp_path / "own/HR/mine.png")
    with pytest.raises(UserError, match="holds files that are not from here"):
        run(tmp_path / "hr", None, tmp_path / "own", Grid(12, 12, (2,)))


def test_images_that_do_not_fit_fail_alone(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    save(tmp_path / "hr/b.png", 8, 36)
    save(tmp_path / "hr/c.png", 24, 36)
    for name, height in (("a", 12), ("b", 4), ("c", 11)):
        save(tmp_path / f"lr/{name}.png", height, 18)
    done = run(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(12, 12, (2,)))
    assert [outcome.failure != "" for outcome in done] == [False, True, True]
    assert "Lower --size" in done[1].failure
    assert "has 18x11 pixels, expected 18x12" in done[2].failure


def test_lr_folders_are_found_or_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png", 24, 36)
    (tmp_path / "lr").mkdir()
    with pytest.raises(UserError, match=r"no LR images of scale 2: tried .*X2 and .*x2"):
        run(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(12, 12, (2, 4)))
    save(tmp_path / "lr/x2/b.png", 12, 18)
    with pytest.raises(UserError, match=r"HR without LR: 1 \(a\)"):
        run(tmp_path / "hr", tmp_path / "lr", tmp_path / "out", Grid(12, 12, (2,)))


def test_sub_images_of_a_replaced_image_go(tmp_path: Path) -> None:
    grid = Grid(12, 12, (2,))
    save(tmp_path / "hr/a.png", 36, 36)
    save(tmp_path / "hr/a_s001.png", 12, 12, 1)
    run(tmp_path / "hr", None, tmp_path / "out", grid)
    other = read_rgb(save(tmp_path / "hr/a.png", 12, 24, 2))
    assert [(outcome.written, outcome.kept) for outcome in run(tmp_path / "hr", None, tmp_path / "out", grid)] == [(4, 0), (0, 2)]
    for folder_name in ("HR", "LR/X2"):
        names = [file.name for file in sorted((tmp_path / "out" / folder_name).glob("*.png"))]
        assert names == ["a_s001.png", "a_s001_s001.png", "a_s002.png"]
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/HR/a_s002.png"), other[:, 12:])


def test_sub_images_of_other_folders_are_not_taken_for_those_of_these(tmp_path: Path) -> None:
    grid = Grid(12, 12, (2,))
    for name in ("one", "other"):
        save(tmp_path / name / "a.png", 24, 36)
    save(tmp_path / "lr/ax2.png", 12, 18, 3)
    run(tmp_path / "one", None, tmp_path / "out", grid)
    before = contents(tmp_path / "out")
    for hr, lr in (("one", tmp_path / "lr"), ("other", None)):
        with pytest.raises(UserError, match=r"was made with .* Choose another output folder"):
            run(tmp_path / hr, lr, tmp_path / "out", grid)
    assert contents(tmp_path / "out") == before


def test_the_pixels_say_where_to_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the header says, as of a turned photo."""
    save(tmp_path / "hr/a.png", 24, 12)
    monkeypatch.setattr("sr_nas.preparation.generate.image_size", lambda file: (12, 36))
    (outcome,) = run(tmp_path / "hr", None, tmp_path / "out", Grid(12, 12, (2,)))
    assert (outcome.written, outcome.failure) == (4, "")
