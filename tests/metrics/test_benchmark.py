"""Scores of a whole set."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sr_nas.data.sources import Pairs, folder
from sr_nas.errors import UserError
from sr_nas.metrics import bicubic, evaluate_set, psnr, ssim


def nearest(lr: np.ndarray, scale: int) -> np.ndarray:
    return lr.repeat(scale, axis=0).repeat(scale, axis=1)


def noise_pairs(*sizes: tuple[int, int]) -> Pairs:
    def read_hr(index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*sizes[index], 3), np.uint8)

    return Pairs([f"image {number}" for number in range(len(sizes))][::-1], 2, read_hr)


def test_bicubic_on_set5_gives_the_known_number(shared: Path) -> None:
    place = shared / "data/Set5"
    scores = evaluate_set(bicubic, folder([str(place / "HR")], [str(place / "LR_matlab/x2")], scale=2), 2)
    assert round(scores["psnr"], 2) == 33.68
    # Papers print .9299 for luma resized by itself.
    assert scores["ssim"] == pytest.approx(0.930, abs=1e-3)
    assert list(scores["images"]) == ["baby", "bird", "butterfly", "head", "woman"]


def test_means_are_over_images_in_their_order() -> None:
    pairs = noise_pairs((30, 40), (60, 50), (33, 44))
    seen: list[tuple[str, dict[str, float]]] = []
    scores = evaluate_set(nearest, pairs, 2, lambda name, values: seen.append((name, values)))
    assert list(scores["images"]) == ["image 2", "image 1", "image 0"] == [name for name, _ in seen]
    for index, (name, values) in enumerate(seen):
        sr, hr = nearest(pairs.lr(index), 2), pairs.hr(index)
        assert scores["images"][name] == values == {"psnr": psnr(sr, hr, 2), "ssim": ssim(sr, hr, 2)}
    for metric in ("psnr", "ssim"):
        assert scores[metric] == pytest.approx(math.fsum(values[metric] for _, values in seen) / 3, rel=1e-12)


def test_the_upscaler_is_given_lr_and_the_scale() -> None:
    pairs = noise_pairs((30, 40))
    given: list[tuple[np.ndarray, int]] = []

    def upscale(lr: np.ndarray, scale: int) -> np.ndarray:
        given.append((lr, scale))
        return pairs.hr(0)

    assert evaluate_set(upscale, pairs, 2)["psnr"] == math.inf
    ((lr, scale),) = given
    np.testing.assert_array_equal(lr, pairs.lr(0))
    assert scale == 2


def test_an_image_that_cannot_be_scored_is_named() -> None:
    with pytest.raises(UserError, match=r"^image 0: an image of 40x12 pixels is too small"):
        evaluate_set(nearest, noise_pairs((30, 40), (12, 40)), 2)
    with pytest.raises(UserError, match=r"^image 0: the result has 60x45 pixels, but the original has 40x30"):
        evaluate_set(lambda lr, scale: nearest(lr, 3), noise_pairs((30, 40)), 2)
    with pytest.raises(UserError, match="no images"):
        evaluate_set(nearest, noise_pairs(), 2)
