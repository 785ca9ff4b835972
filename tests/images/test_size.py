"""Sizes without decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_nas.errors import UserError
from sr_nas.images.files import read_image, write_image
from sr_nas.images.size import image_size, whole_png_size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_it_is_the_size_of_what_is_read(tmp_path: Path, suffix: str) -> None:
    write_image(tmp_path / f"a{suffix}", np.zeros((5, 7, 3), np.uint8))
    assert image_size(tmp_path / f"a{suffix}") == (5, 7) == read_image(tmp_path / f"a{suffix}").shape[:2]


def test_only_the_header_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, np.random.default_rng(0).integers(0, 256, (300, 47, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:100])
    assert image_size(file) == (300, 47)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_images_that_lie_on_their_side_are_measured_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (7, 5)).save(tmp_path / f"a{suffix}", exif=exif)
    assert image_size(tmp_path / f"a{suffix}") == read_image(tmp_path / f"a{suffix}").shape[:2]


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            image_size(tmp_path / name)


def test_a_png_is_whole_or_not(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    write_image(file, np.zeros((5, 7), np.uint8))
    assert whole_png_size(file) == (5, 7)
    whole = file.read_bytes()
    for broken in (whole[:-1], whole[:30], b"", b"x" + whole[1:]):
        file.write_bytes(broken)
        assert whole_png_size(file) is None
    assert whole_png_size(tmp_path / "missing.png") is None
