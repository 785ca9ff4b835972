"""LR images of folders of HR images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.resize import downscale
from sr_nas.preparation.generate import make_lr
from sr_nas.preparation.outputs import Outcome
from tests.preparation.images import contents, noise, save


def run(hr: Path, output: Path, scales: tuple[int, ...] = (2, 3), workers: int = 1) -> list[Outcome]:
    total, outcomes = make_lr(hr, output, scales, workers)
    done = list(outcomes)
    assert len(done) == total
    return done


def set_age(file: Path, seconds: float) -> None:
    stamp = file.stat().st_mtime - seconds
    os.utime(file, (stamp, stamp))


def test_they_equal_the_published_lr_images_of_set5(shared: Path, tmp_path: Path) -> None:
    """And so they do on two processes."""
    done = run(shared / "data/Set5/HR", tmp_path, (2, 3, 4), workers=2)
    assert [(outcome.source.stem, outcome.written) for outcome in done] == [
        (name, 3) for name in ("baby", "bird", "butterfly", "head", "woman")
    ]
    for scale in (2, 3, 4):
        for published in (shared / f"data/Set5/LR_matlab/x{scale}").iterdir():
            ours = tmp_path / f"X{scale}" / f"{published.stem}.png"
            np.testing.assert_array_equal(read_rgb(ours), read_rgb(published))


def test_what_is_there_is_kept_and_what_is_missing_is_made(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"hr/{number}.png", 25, 37, number)
    run(tmp_path / "hr", tmp_path / "lr")
    first = contents(tmp_path / "lr")
    (tmp_path / "lr/X2/1x2.png").unlink()
    stamp = (tmp_path / "lr/X2/0x2.png").stat().st_mtime_ns
    assert [(outcome.written, outcome.kept) for outcome in run(tmp_path / "hr", tmp_path / "lr")] == [(0, 2), (1, 1), (0, 2)]
    assert contents(tmp_path / "lr") == first
    assert (tmp_path / "lr/X2/0x2.png").stat().st_mtime_ns == stamp


def test_an_lr_image_of_a_replaced_image_or_cut_off_is_made_again(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"hr/{number}.png", 24, 36, number)
    run(tmp_path / "hr", tmp_path / "lr", (2,))
    new = noise(24, 36, 9)
    write_image(tmp_path / "hr/0.png", new)
    set_age(tmp_path / "hr/0.png", 10)  # as an unpacked one is older than what was made before
    cut = tmp_path / "lr/X2/1x2.png"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-5])
    assert [outcome.written for outcome in run(tmp_path / "hr", tmp_path / "lr", (2,))] == [1, 1]
    np.testing.assert_array_equal(read_rgb(tmp_path / "lr/X2/0x2.png"), downscale(new, 2))
    assert cut.read_bytes() == whole


def test_lr_images_that_are_not_from_here_are_not_replaced(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png")
    before = save(tmp_path / "lr/X2/ax2.png", 5, 5).read_bytes()
    with pytest.raises(UserError, match="holds files that are not from here"):
        run(tmp_path / "hr", tmp_path / "lr", (2,))
    assert (tmp_path / "lr/X2/ax2.png").read_bytes() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_fails_does_not_stop_the_others(tmp_path: Path, workers: int) -> None:
    save(tmp_path / "hr/a.png")
    (tmp_path / "hr/b.png").write_bytes(b"no image")
    save(tmp_path / "hr/c.png", 2, 2)
    done = run(tmp_path / "hr", tmp_path / "lr", (2, 3), workers)
    assert [(outcome.written, bool(outcome.failure)) for outcome in done] == [(2, False), (0, True), (1, True)]
    assert "b.png" in done[1].failure
    assert "too small for scale 3" in done[2].failure


def test_leftovers_of_a_kill_are_cleared_away(tmp_path: Path) -> None:
    save(tmp_path / "hr/a.png")
    save(tmp_path / "lr/X2/.ax2-unfinished-abc.png")
    run(tmp_path / "hr", tmp_path / "lr", (2,))
    assert list(contents(tmp_path / "lr")) == ["X2/.made_of.json", "X2/ax2.png"]


def test_names_that_collide_and_places_that_overlap_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "X2/a.png")
    with pytest.raises(UserError, match="holds the images that are read"):
        run(tmp_path / "X2", tmp_path, (2,))
    save(tmp_path / "X2/a.bmp")
    with pytest.raises(UserError, match="same name"):
        run(tmp_path / "X2", tmp_path / "lr")


def test_lr_images_of_another_folder_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    save(tmp_path / "one/a.png", seed=1)
    save(tmp_path / "other/a.png", seed=2)
    run(tmp_path / "one", tmp_path / "lr", (2,))
    with pytest.raises(UserError, match=r"was made with .*one'}, not with .*other'}"):
        run(tmp_path / "other", tmp_path / "lr", (2,))
