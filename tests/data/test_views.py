"""Crops and colours of a classifier's images, against torchvision's on Pillow images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from sr_nas.classification.labelled import EvaluationView, TrainingView, draw_box, shift_hue

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(300, 400), (401, 257), (90, 64)])
def test_the_evaluation_view_is_torchvisions(size: tuple[int, int]) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    pixels = noise(*size)
    found = EvaluationView(224)(pixels, np.random.default_rng())
    wanted = functional.center_crop(functional.resize(Image.fromarray(pixels), 256), 224)
    np.testing.assert_array_equal(found, np.asarray(wanted))


def test_boxes_are_spread_as_they_should_be() -> None:
    """Those that fit are even in area and in log ratio; at most a third of the area all of them fit into 300x400 pixels."""
    generator = np.random.default_rng(0)
    boxes = np.array([draw_box(300, 400, (0.08, 1 / 3), RATIO, generator) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()
    share, ratio = height * width / 120_000, np.log(width / height)
    rounding = 0.01
    assert share.min() == pytest.approx(0.08, abs=rounding) and share.max() == pytest.approx(1 / 3, abs=rounding)
    assert share.mean() == pytest.approx((0.08 + 1 / 3) / 2, abs=0.005)
    assert [-ratio.min(), ratio.max()] == pytest.approx([math.log(4 / 3)] * 2, abs=rounding)
    assert ratio.mean() == pytest.approx(0, abs=0.01)
    assert (top / (300 - height)).mean() == pytest.approx(0.5, abs=0.02)
    assert (left / (400 - width)).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("size", "box"), [((10, 300), (0, 143, 10, 13)), ((300, 12), (142, 0, 16, 12))])
def test_of_a_long_image_the_middle_is_taken(size: tuple[int, int], box: tuple[int, ...]) -> None:
    assert draw_box(*size, (0.9, 1.0), RATIO, np.random.default_rng(0)) == box


@pytest.mark.parametrize("shift", [-0.2, -0.01, 0.0, 0.13, 0.5])
def test_hues_turn_as_torchvisions(shift: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = Image.fromarray(noise(20, 30))
    np.testing.assert_array_equal(np.asarray(shift_hue(image, shift)), np.asarray(functional.adjust_hue(image, shift)))


def test_a_training_view_is_a_resized_box_in_other_colours() -> None:
    """What was drawn is drawn again here, and done by torchvision."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    pixels = noise(120, 160)
    for seed in range(5):
        again = np.random.default_rng(seed)
        top, left, height, width = draw_box(120, 160, SCALE, RATIO, again)
        plain = functional.resized_crop(Image.fromarray(pixels), top, left, height, width, [64, 64])
        np.testing.assert_array_equal(TrainingView(64, False)(pixels, np.random.default_rng(seed)), np.asarray(plain))
        factors, shift = again.uniform(0.6, 1.4, 3), again.uniform(-0.2, 0.2)
        changes = [
            lambda image, f=factors: functional.adjust_brightness(image, f[0]),
            lambda image, f=factors: functional.adjust_contrast(image, f[1]),
            lambda image, f=factors: functional.adjust_saturation(image, f[2]),
            lambda image, s=shift: functional.adjust_hue(image, s),
        ]
        for number in again.permutation(4):
            plain = changes[number](plain)
        np.testing.assert_array_equal(TrainingView(64, True)(pixels, np.random.default_rng(seed)), np.asarray(plain))
