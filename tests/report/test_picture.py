"""The comparison picture shows the images' own pixels."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.image import FigureImage

from sr_nas.errors import UserError
from sr_nas.report.plots import PICTURE_DPI, comparison_figure, save


def images(count: int, height: int, width: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize(("crop", "zoom"), [((5, 7, 35, 27), 16), ((0, 0, 100, 90), 4), ((99, 89, 100, 90), 480)])
def test_pixels_are_the_crop_enlarged_by_nearest_neighbour(tmp_path: Path, crop: tuple[int, int, int, int], zoom: int) -> None:
    columns = list(zip(["bicubic", "network 32.21 dB", "HR"], images(3, 90, 100), strict=True))
    save(comparison_figure(columns, crop), tmp_path / "picture.png")
    bgr = cv2.imread(str(tmp_path / "picture.png"))
    assert bgr is not None
    written = bgr[..., ::-1]
    figure = comparison_figure(columns, crop)
    width, height = (round(side * PICTURE_DPI) for side in figure.get_size_inches())
    assert written.shape == (height, width, 3)
    left, top, right, bottom = crop
    size = ((right - left) * zoom, (bottom - top) * zoom)
    for placed, (_, image) in zip(figure.images, columns, strict=True):
        assert isinstance(placed, FigureImage)
        expected = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_NEAREST)
        x, y = int(placed.ox), height - int(placed.oy) - size[1]
        np.testing.assert_array_equal(written[y : y + size[1], x : x + size[0]], expected)


def test_a_title_of_bytes_that_are_not_utf8_is_drawn_with_backslashes(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    figure = comparison_figure([(os.fsdecode(b"b\xff"), image), ("$x_$", image)], (0, 0, *image.shape[1::-1]))
    assert [text.get_text() for text in figure.texts[:2]] == ["b\\udcff", "$x_$"]
    save(figure, tmp_path / "a.png")


def test_titles_stand_over_their_columns_in_order() -> None:
    titles = [
        "bicubic",
        "a network whose title is a good deal wider than the crop that it stands above, as genotypes are",
        "HR $x$",
    ]
    figure = comparison_figure(list(zip(titles, images(3, 70, 70), strict=True)), (0, 0, 70, 70))
    boxes = [text.get_window_extent() for text in figure.texts[:3]]
    assert [text.get_text() for text in figure.texts[:3]] == titles
    assert boxes[0].x0 > 0
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 < boxes[2].x0
    assert boxes[2].x1 < figure.bbox.width


def test_images_of_different_sizes_are_an_error() -> None:
    with pytest.raises(UserError, match="'network' is 96x48, 'HR' is 97x50"):
        comparison_figure([("network", np.zeros((48, 96, 3), np.uint8)), ("HR", np.zeros((50, 97, 3), np.uint8))], (0, 0, 9, 9))


@pytest.mark.parametrize("crop", [(0, 0, 101, 50), (-1, 0, 50, 50), (40, 30, 40, 50), (0, 60, 20, 40)])
def test_a_crop_outside_the_images_is_an_error(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="100 wide and 90 high"):
        comparison_figure([("HR", np.zeros((90, 100, 3), np.uint8))], crop)
