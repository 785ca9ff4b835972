"""MATLAB's imresize: against the published LR images, its formula, and numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_nas.errors import UserError
from sr_nas.images.files import read_image
from sr_nas.images.resize import contributions, cubic, downscale, imresize, modcrop, upscale_bicubic


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equals_the_published_lr_images(shared: Path, scale: int) -> None:
    for file in sorted((shared / "data/Set5/HR").iterdir()):
        published = read_image(shared / f"data/Set5/LR_matlab/x{scale}/{file.stem}x{scale}.bmp")
        np.testing.assert_array_equal(downscale(read_image(file), scale), published, file.stem)


def test_the_kernel_interpolates_and_has_its_published_values() -> None:
    np.testing.assert_array_equal(cubic(np.array([-2.0, -1, 0, 1, 2, 3])), [0, 0, 1, 0, 0, 0])
    np.testing.assert_allclose(cubic(np.array([0.5, -0.5, 1.5, -1.5])), [9 / 16, 9 / 16, -1 / 16, -1 / 16])


def test_halving_weighs_eight_samples() -> None:
    # The kernel of half the frequency at distances 0.25, 0.75, 1.25, 1.75, in units of 1/256.
    half = np.array([111, 29, -9, -3]) / 256
    indices, weights = contributions(16, 8)
    assert indices[3].tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(weights[3], [*half[::-1], *half], atol=1e-15)


def test_the_border_is_mirrored_with_its_end_sample_repeated() -> None:
    indices, _ = contributions(16, 8)
    assert indices[0].tolist() == [2, 1, 0, 0, 1, 2, 3, 4]
    assert indices[7].tolist() == [11, 12, 13, 14, 15, 15, 14, 13]


def test_a_line_shorter_than_the_kernel_is_mirrored_over_and_over() -> None:
    indices, _ = contributions(2, 1)
    assert indices[0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert imresize(np.array([[10, 20]], np.uint8), 1, 1).tolist() == [[15]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 7), (31, 40)])
def test_a_constant_stays_constant(dtype: type, size: tuple[int, int]) -> None:
    resized = imresize(np.full((9, 7, 3), 201, dtype), *size)
    assert resized.dtype == dtype and resized.shape == (*size, 3)
    np.testing.assert_allclose(resized, 201, rtol=1e-6)


@pytest.mark.parametrize("resized", [10, 20, 60])
def test_a_ramp_stays_a_ramp_away_from_the_border(resized: int) -> None:
    ramp = np.arange(40.0)[:, None]
    expected = (np.arange(resized) + 0.5) * 40 / resized - 0.5
    inner = (expected >= 10) & (expected <= 29)
    assert inner.sum() > 3
    np.testing.assert_allclose(imresize(ramp, resized, 1)[inner, 0], expected[inner], atol=1e-12)


def test_axes_are_independent_and_channels_too() -> None:
    image = np.random.default_rng(0).random((12, 9, 3))
    resized = imresize(image, 24, 4)
    rows, columns = (np.zeros((size, length)) for size, length in ((24, 12), (4, 9)))
    for matrix in (rows, columns):
        for row, (indices, weights) in enumerate(zip(*contributions(matrix.shape[1], matrix.shape[0]), strict=True)):
            np.add.at(matrix[row], indices, weights)
    np.testing.assert_allclose(resized, np.einsum("ij,jkc,lk->ilc", rows, image, columns), atol=1e-12)
    np.testing.assert_array_equal(resized[..., 1], imresize(image[..., 1], 24, 4))


def test_integers_are_rounded_half_up_and_clipped_after_each_pass() -> None:
    step = np.zeros((8, 8), np.uint8)
    step[4:] = 255
    step[:, 4:] = 255 - step[:, 4:]
    real = imresize(step.astype(np.float64), 16, 8)
    assert real.min() < -1 and real.max() > 256, "overshoots, so that clipping matters"
    rows = np.clip(np.floor(real + 0.5), 0, 255).astype(np.uint8)
    twice = np.clip(np.floor(imresize(rows.astype(np.float64), 16, 16) + 0.5), 0, 255)
    np.testing.assert_array_equal(imresize(step, 16, 16), twice)
    once = np.clip(np.floor(imresize(step.astype(np.float64), 16, 16) + 0.5), 0, 255)
    assert np.any(once != twice)
    # 1/2 is a tie at x2: the mean of a mirrored pair.
    assert imresize(np.array([[0, 1]], np.uint8), 1, 1).item() == 1


def test_sixteen_bits_keep_their_range() -> None:
    image = np.zeros((8, 8), np.uint16)
    image[4:] = 65535
    resized = imresize(image, 16, 16)
    assert resized.dtype == np.uint16 and resized.min() == 0 and resized.max() == 65535
    assert 257 < resized[7, 0] < 65278


def test_modcrop_keeps_the_top_left() -> None:
    image = np.arange(7 * 5).reshape(7, 5)
    np.testing.assert_array_equal(modcrop(image, 3), image[:6, :3])
    with pytest.raises(UserError, match="5x7 pixels is too small for scale 6"):
        modcrop(image, 6)


def test_shapes() -> None:
    assert downscale(np.zeros((11, 14, 3), np.uint8), 4).shape == (2, 3, 3)
    assert upscale_bicubic(np.zeros((2, 3), np.uint8), 4).shape == (8, 12)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.int64), np.zeros((4, 4), bool)])
def test_other_dtypes_are_refused(image: np.ndarray) -> None:
    with pytest.raises(TypeError, match=str(image.dtype)):
        imresize(image, 2, 2)


@pytest.mark.parametrize(("shape", "size"), [((4,), (2, 2)), ((0, 4), (2, 2)), ((4, 4), (0, 2))])
def test_impossible_shapes_are_refused(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot make"):
        imresize(np.zeros(shape), *size)


def test_resizing_loads_no_image_reader() -> None:
    program = "import sys, sr_nas.images.resize; sys.exit(any(name in sys.modules for name in ('cv2', 'PIL', 'torch')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
