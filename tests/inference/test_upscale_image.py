"""Pixels of every kind through a network; nearest neighbour is the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.images.files import to_pixels, to_tensor
from sr_nas.images.resize import imresize, upscale_bicubic
from sr_nas.inference.images import upscale_image, upscaler
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN


class Nearest(nn.Module):
    """Nearest neighbour x2, with an offset for each channel."""

    scale = 2

    def __init__(self, offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2)
        self.register_buffer("offsets", torch.tensor(offsets).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3 and x.dtype == torch.float32
        return self.upsample(x) + self.offsets


def doubled(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def noise(channels: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (9, 6, channels), dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_way_to_a_tensor_and_back(dtype: type) -> None:
    levels: np.ndarray = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1, 1)
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 1, *levels.shape[:2]) and tensor.min() == 0 and tensor.max() == 1
    np.testing.assert_array_equal(to_pixels(tensor, dtype), levels)


def test_the_output_is_clipped_and_rounded_half_to_even() -> None:
    values = torch.tensor([-0.2, 0.0, 0.5 / 255, 1.5 / 255, 2.4 / 255, 2.6 / 255, 1.0, 1.7], dtype=torch.float64)
    assert to_pixels(values.reshape(1, 1, 1, -1), np.uint8).ravel().tolist() == [0, 0, 0, 2, 2, 3, 255, 255]


def test_planes_are_ordered_as_channels() -> None:
    pixels = noise(3, np.uint8)
    tensor = to_tensor(pixels)
    assert tensor[0, 2, 4, 1] == np.float32(pixels[4, 1, 2]) / np.float32(255)


@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_and_depth_are_kept(channels: int, dtype: type, tile: int | None) -> None:
    pixels = noise(channels, dtype)
    upscaled = upscale_image(Nearest(), pixels, tile=tile, device="cpu")
    assert upscaled.dtype == dtype and upscaled.shape == (18, 12, channels)
    colours = channels - 1 if channels in (2, 4) else channels
    np.testing.assert_array_equal(upscaled[..., :colours], doubled(pixels[..., :colours]))
    if channels in (2, 4):
        np.testing.assert_array_equal(upscaled[..., -1], upscale_bicubic(pixels[..., -1], 2))


def test_grey_is_the_mean_of_the_three_outputs() -> None:
    pixels = np.full((3, 3, 1), 100, np.uint8)
    upscaled = upscale_image(Nearest((3 / 255, 0.0, 12 / 255)), pixels, device="cpu")
    np.testing.assert_array_equal(upscaled, np.full((6, 6, 1), 105))


def test_an_upscaler_refuses_another_scale() -> None:
    upscale = upscaler(Nearest(), device="cpu", tile=4)
    pixels = noise(3, np.uint8)
    np.testing.assert_array_equal(upscale(pixels, 2), doubled(pixels))
    with pytest.raises(UserError, match="upscales by 2, not by 4"):
        upscale(pixels, 4)


@pytest.mark.parametrize("outscale", [0.3, 1.0, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_another_scale_is_a_resize_of_the_output_and_alpha_comes_from_the_input(channels: int, outscale: float) -> None:
    pixels = noise(channels, np.uint8)
    size = (round(outscale * 9), round(outscale * 6))
    resized = upscale_image(Nearest(), pixels, device="cpu", tile=5, outscale=outscale)
    assert resized.shape == (*size, channels)
    colours = channels - 1 if channels in (2, 4) else channels
    np.testing.assert_array_equal(resized[..., :colours], imresize(doubled(pixels[..., :colours]), *size))
    if channels in (2, 4):
        np.testing.assert_array_equal(resized[..., -1], imresize(pixels[..., -1], *size))


def test_no_scale_makes_less_than_a_pixel_and_no_number_above_0_is_refused() -> None:
    assert upscale_image(Nearest(), noise(3, np.uint8), device="cpu", outscale=0.01).shape == (1, 1, 3)
    for outscale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="scaled by a number above 0"):
            upscale_image(Nearest(), noise(3, np.uint8), device="cpu", outscale=outscale)


def test_progress_grows_to_one() -> None:
    shares: list[float] = []
    upscale_image(Nearest(), noise(3, np.uint8), tile=4, device="cpu", progress=shares.append)
    assert shares == pytest.approx([number / 6 for number in range(1, 7)])


def photo(side: int, channels: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (side, side, channels), np.uint8)


@pytest.mark.parametrize(
    "build",
    [lambda: DLSR(2, nf=8, num_cells=2, genotype="sep_conv_3x3,conv_3x3,dil_conv_5x5"), lambda: IMDN(3, nf=16, num_blocks=1)],
    ids=["dlsr", "imdn"],
)
@pytest.mark.parametrize("side", [1, 2, 14, 15])
def test_networks_run_on_the_smallest_images(build: Callable[[], SRNetwork], side: int) -> None:
    network = build()
    for channels, tile, ensemble in ((1, None, True), (4, 1, False), (3, 7, True), (3, None, False)):
        upscaled = upscale_image(network, photo(side, channels), device="cpu", tile=tile, ensemble=ensemble)
        assert upscaled.shape == (network.scale * side, network.scale * side, channels)
