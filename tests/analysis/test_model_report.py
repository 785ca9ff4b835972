"""The crops of a benchmark's pictures, against a search of every square."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_nas.analysis.model_report import crop_picture, extreme_gains, squared_error
from sr_nas.metrics import psnr


def noise(seed: int, height: int = 22, width: int = 25) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("side", [1, 6, 18])
def test_best_and_worst_against_brute_force(side: int) -> None:
    hr, sr, baseline = noise(0), noise(1), noise(2)
    result = extreme_gains(sr, baseline, hr, 2, side)
    before, after, boxes = [], [], []
    for top in range(2, 20 - side + 1):
        for left in range(2, 23 - side + 1):
            inner = (slice(top, top + side), slice(left, left + side))
            boxes.append((left, top, left + side, top + side))
            before.append(squared_error(baseline, hr)[inner].mean())
            after.append(squared_error(sr, hr)[inner].mean())
    removed = [a - b for a, b in zip(before, after, strict=True)]
    assert result["best"][1] == boxes[int(np.argmax(removed))]
    assert result["best"][0] == pytest.approx(max(removed))
    decibels = {
        box: 10 * math.log10(max(a, 0.01) / max(b, 0.01))
        for box, a, b in zip(boxes, before, after, strict=True)
        if a >= np.mean(before)
    }
    assert result["worst"][1] == min(decibels, key=lambda box: decibels[box])
    assert result["worst"][0] == pytest.approx(min(decibels.values()))


def test_the_worst_is_not_a_place_where_nothing_can_be_gained() -> None:
    hr = np.full((40, 80, 3), 100, np.uint8)
    baseline, sr = hr.copy(), hr.copy()
    baseline[:, 40:], sr[:, 40:] = 120, 130  # worse than the baseline where that errs
    sr[5, 5] = 101  # and by far more decibels worse where it does not
    assert extreme_gains(sr, baseline, hr, 0, 10)["worst"][1][0] >= 31


def test_an_image_smaller_than_the_square() -> None:
    result = extreme_gains(noise(1), noise(2), noise(0), 3, 96)
    assert all(right - left == 16 and bottom - top == 16 for _, (left, top, right, bottom) in result.values())


def test_the_picture_has_a_column_for_each_and_the_psnr_of_the_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sr_nas.analysis import model_report as crops

    hr, bicubic, sr = noise(0), noise(1), noise(2)
    pictures = []
    inner = (slice(3, 13), slice(4, 14))
    original = crops.comparison_figure
    monkeypatch.setattr(crops, "comparison_figure", lambda columns, box: pictures.append(columns) or original(columns, box))
    crop_picture(tmp_path / "new" / "crop.png", "baby", hr, [("bicubic", bicubic), ("IMDN", sr), ("ideal", hr)], (4, 3, 14, 13))
    ((first, *others),) = pictures
    assert first[0] == "baby, HR"
    expected = [psnr(image[inner], hr[inner], 0) for image in (bicubic, sr)]
    assert [title for title, _ in others] == [f"bicubic, {expected[0]:.2f} dB", f"IMDN, {expected[1]:.2f} dB", "ideal, equal"]
    assert cv2.imread(str(tmp_path / "new" / "crop.png")) is not None
