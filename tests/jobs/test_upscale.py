"""``sr_nas.upscale``: arrays and PIL images, against the network itself and against the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import sr_nas
from sr_nas.errors import UserError
from sr_nas.export.network_file import load_network
from sr_nas.images.resize import imresize
from sr_nas.inference.images import upscale_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    random = np.random.default_rng(0)
    return (
        random.random(shape, np.float64).astype(dtype)
        if np.issubdtype(dtype, np.floating)
        else random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
def test_an_integer_array_is_upscaled_as_its_file_would_be(model: Path, shape: tuple[int, ...], dtype: type) -> None:
    image = noise(*shape, dtype=dtype)
    upscaled = sr_nas.upscale(image, model, progress=(shares := []).append)
    assert upscaled.dtype == dtype and upscaled.shape == (18, 14, *shape[2:]) and shares == [1.0]
    expected = upscale_image(load_network(model), np.atleast_3d(image), device="cpu").reshape(upscaled.shape)
    assert np.abs(upscaled.astype(int) - expected).max() <= np.iinfo(dtype).max // 255  # folded layers round the other way


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_is_what_the_network_gives_clipped(model: Path, dtype: type) -> None:
    network, image = load_network(model), noise(9, 7, 4, dtype=dtype)
    upscaled = sr_nas.upscale(image, network)
    lr = torch.from_numpy(image[..., :3].astype(np.float32).transpose(2, 0, 1)[None].copy())
    with torch.inference_mode():
        expected = network(lr)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    tolerance = 1e-3 if dtype is np.float16 else 1e-5
    assert upscaled.dtype == dtype and upscaled.shape == (18, 14, 4)
    np.testing.assert_allclose(upscaled[..., :3], expected, atol=tolerance)
    alpha = imresize(image[..., 3:], 18, 14)
    assert alpha.min() < 0 or alpha.max() > 1
    np.testing.assert_array_equal(upscaled[..., 3:], alpha.clip(0, 1))
    with torch.inference_mode():
        mean = network(lr[:, :1].expand(-1, 3, -1, -1))[0].mean(dim=0).clamp(0, 1).numpy()
    np.testing.assert_allclose(sr_nas.upscale(image[..., 0], network), mean, atol=tolerance)
    assert np.array_equal(image, noise(9, 7, 4, dtype=dtype)), "the input is not changed"


@pytest.mark.parametrize(("mode", "dtype", "channels"), [("L", np.uint8, 1), ("LA", np.uint8, 2), ("RGB", np.uint8, 3)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_pil_image_keeps_mode_and_profile_and_stands_upright(
    model: Path, mode: str, dtype: type, channels: int, orientation: int
) -> None:
    pixels = noise(9, 7, channels, dtype=dtype)
    image = Image.fromarray(pixels.squeeze())
    image.getexif()[274] = orientation
    image.info["icc_profile"] = SRGB
    upscaled = sr_nas.upscale(image, model)
    assert upscaled.mode == image.mode == mode and upscaled.info["icc_profile"] == SRGB
    expected = sr_nas.upscale(pixels.squeeze(), model)
    if orientation == 6:
        expected = sr_nas.upscale(np.ascontiguousarray(np.rot90(pixels.squeeze(), -1)), model)
    assert np.array_equal(np.asarray(upscaled), expected)


def test_deep_pil_images(model: Path) -> None:
    for dtype, mode in ((np.uint16, "I;16"), (np.float32, "F")):
        image = noise(9, 7, dtype=dtype)
        upscaled = sr_nas.upscale(Image.fromarray(image), model)
        assert upscaled.mode == mode and np.array_equal(np.asarray(upscaled), sr_nas.upscale(image, model))


def test_tiles_another_scale_and_a_name(model: Path) -> None:
    image = noise(12, 9, 3)
    assert sr_nas.upscale(image, model, outscale=3.5).shape == (42, 32, 3)
    whole, tiles = sr_nas.upscale(image, model, tile=None), sr_nas.upscale(image, model, tile=4)
    assert whole.shape == tiles.shape == (24, 18, 3)
    with pytest.raises(UserError, match="'x17' does not exist"):
        sr_nas.upscale(image, "x17")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.int64), "no image: int64"),
        (np.zeros((4, 4, 5), np.uint8), "C up to 4"),
        (np.zeros((4,), np.uint8), "no image"),
        (np.zeros((0, 4, 3), np.uint8), "no image"),
        (np.full((4, 4), 255.0), r"from 0 to 1, and this is from 255\.0 to 255\.0"),
        (np.full((4, 4), np.nan), "from 0 to 1"),
        (Image.new("CMYK", (4, 4)), "of the mode CMYK is not upscaled; convert it"),
    ],
)
def test_what_is_no_image_is_refused(model: Path, image: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sr_nas.upscale(image, model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tile": "whole"}, "tile is a number"),
        ({"tile": 1.5}, "tile is a number"),
        ({"precision": "fp8"}, "one of fp32, bf16, fp16"),
    ],
)
def test_words_of_the_command_that_are_none_here(model: Path, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sr_nas.upscale(np.zeros((4, 4), np.uint8), model, **words)


def test_a_colour_key_is_not_dropped(model: Path) -> None:
    image = Image.new("RGB", (4, 4))
    image.info["transparency"] = (0, 0, 0)
    with pytest.raises(ValueError, match=r"convert the image, as by image\.convert\('RGBA'\)"):
        sr_nas.upscale(image, model)
    assert sr_nas.upscale(image.convert("RGBA"), model).mode == "RGBA"
