"""Synthetic images: repeatable, and like photos in what matters for reading them."""

from __future__ import annotations

import numpy as np

from sr_nas.data.synthetic import FALL, photo_like
from sr_nas.images.encode import encode


def test_the_number_decides_the_pixels() -> None:
    one = photo_like(48, 65, 3)
    assert one.shape == (48, 65, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(photo_like(48, 65, 3), one)
    assert (photo_like(48, 65, 4) != one).mean() > 0.9


def test_amplitudes_fall_with_the_power_of_the_frequency() -> None:
    grey = photo_like(512, 512, 0).mean(axis=2)
    amplitude = np.abs(np.fft.fft2(grey))
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None])
    # Above the lowest, which are few, and below those where noise and rounding add up.
    band = (frequency > 0.02) & (frequency < 0.1)
    slope = np.polyfit(np.log(frequency[band]), np.log(amplitude[band]), 1)[0]
    assert abs(slope + FALL) < 0.05


def test_png_of_div2k_size_is_as_long_as_that_of_a_photo() -> None:
    bits = len(encode(photo_like(1356, 2040, 0), ".png", 95)) * 8 / (1356 * 2040)
    assert 12 < bits < 13
