"""PSNR and SSIM against BasicSR's and against their formulas."""

from __future__ import annotations

import importlib
import json
import math
from types import ModuleType

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.metrics import PROTOCOL, luma, psnr, ssim


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """A structured image, and the same with noise."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:61, :48]
    hr = 127 + 60 * np.stack([np.sin(rows / 5), np.cos(columns / 4), np.sin((rows + columns) / 7)], axis=-1)
    sr = hr + random.normal(0, 9, hr.shape)
    return tuple(np.rint(np.clip(image, 0, 255)).astype(np.uint8) for image in (sr, hr))  # type: ignore[return-value]


@pytest.fixture
def basicsr_metrics(basicsr: ModuleType) -> ModuleType:
    return importlib.import_module("basicsr.metrics.psnr_ssim")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equals_basicsr(basicsr_metrics: ModuleType, images: tuple[np.ndarray, np.ndarray], scale: int) -> None:
    sr, hr = images
    arguments = (sr[..., ::-1], hr[..., ::-1])
    # BasicSR computes luma in single precision.
    assert psnr(sr, hr, scale) == pytest.approx(basicsr_metrics.calculate_psnr(*arguments, scale, test_y_channel=True), abs=1e-5)
    assert ssim(sr, hr, scale) == pytest.approx(basicsr_metrics.calculate_ssim(*arguments, scale, test_y_channel=True), abs=1e-6)


def test_luma_is_studio_range_and_not_rounded() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 2, 3]]], np.uint8)
    expected = [16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966, 16 + (65.481 + 2 * 128.553 + 3 * 24.966) / 255]
    np.testing.assert_allclose(luma(colours), [expected], rtol=1e-14)


def test_psnr_is_the_formula_inside_the_border() -> None:
    hr = np.full((20, 30, 3), 100, np.uint8)
    sr = hr + np.uint8(5)
    sr[:2] = sr[-2:] = 255
    sr[:, :2] = sr[:, -2:] = 0
    # Grey differs in Y by 219 / 255 of its difference.
    assert psnr(sr, hr, 2) == pytest.approx(20 * math.log10(255 / (5 * 219 / 255)), abs=1e-9)
    assert psnr(sr, hr, 1) < psnr(sr, hr, 2)


def test_ssim_is_its_equation_over_the_valid_windows(images: tuple[np.ndarray, np.ndarray]) -> None:
    # Wang et al. 2004, equation 13, with a window made and moved by NumPy alone.
    sr, hr = (luma(image)[3:-3, 3:-3] for image in images)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    x, y = (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (sr, hr))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("hwij,ij->hw", values, window)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim(*images, 3) == pytest.approx(index.mean(), abs=1e-10)


def test_equal_images(images: tuple[np.ndarray, np.ndarray]) -> None:
    assert psnr(images[1], images[1], 4) == math.inf
    assert ssim(images[1], images[1], 4) == pytest.approx(1)


@pytest.mark.parametrize(("metric", "least"), [(psnr, 9), (ssim, 19)])
def test_too_small_after_shaving_names_the_size(metric, least: int) -> None:
    image = np.zeros((least, 40, 3), np.uint8)
    metric(image, image, 4)
    with pytest.raises(UserError, match=rf"40x{least - 1} pixels is too small: .* 4 shaved off"):
        metric(image[1:], image[1:], 4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(metric) -> None:
    image = np.zeros((40, 30, 3), np.uint8)
    with pytest.raises(UserError, match="result has 30x20 pixels, but the original has 30x40"):
        metric(image[:20], image, 2)
    with pytest.raises(TypeError, match="uint8 images, not float64"):
        metric(image / 255, image, 2)


def test_the_protocol_is_printable_data() -> None:
    assert json.loads(json.dumps(PROTOCOL)) == PROTOCOL
    assert all(isinstance(text, str) and text for text in PROTOCOL.values())
