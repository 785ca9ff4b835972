"""Tiles against the whole image, their size and memory, and the x8 self-ensemble."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.data.sources import folder
from sr_nas.errors import UserError
from sr_nas.export.released import load_released
from sr_nas.inference.images import upscaler
from sr_nas.inference.tiles import fitting_tile, pools_globally, tile_overlap
from sr_nas.metrics import evaluate_set
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN, ContrastAwareChannelAttention
from tests.inference.tensors import upscale


class Small(nn.Module):
    """Stride 1, one convolution dilated and one wide: radius 1 + 2 + 2 + 1 = 6."""

    scale = 2

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.seen: list[tuple[int, int]] = []
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2),
            middle or nn.Identity(),
            nn.Conv2d(8, 8, (1, 5), padding=(0, 2)),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.shape[2], x.shape[3]))
        return self.body(x)


def random_lr(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tile", [5, 8, 13, 64])
@pytest.mark.parametrize("size", [(32, 32), (37, 29), (40, 1), (1, 23), (1, 1), (7, 50)])
def test_tiles_equal_the_whole_image(size: tuple[int, int], tile: int) -> None:
    network, lr = Small(), random_lr(*size)
    whole = upscale(network, lr, device="cpu")
    assert whole.shape == (1, 3, 2 * size[0], 2 * size[1])
    with torch.no_grad():
        assert torch.equal(whole, network.body(lr))
    tiled = upscale(network, lr, tile=tile, device="cpu")
    torch.testing.assert_close(tiled, whole, atol=2e-6, rtol=0)


def test_tiles_of_one_pixel_equal_the_whole_image() -> None:
    network, lr = Small(), random_lr(5, 7)
    torch.testing.assert_close(upscale(network, lr, tile=1, device="cpu"), upscale(network, lr, device="cpu"), atol=2e-6, rtol=0)


def test_no_more_than_a_tile_and_its_overlap_goes_to_the_device() -> None:
    network = Small()
    upscale(network, random_lr(37, 29), tile=8, device="cpu")
    assert len(network.seen) == 5 * 4
    assert max(max(size) for size in network.seen) == 8 + 2 * 6
    assert network.seen[0] == (14, 14), "nothing is padded beyond the border"
    assert network.seen[-1] == (5 + 6, 5 + 6)


def test_a_smaller_overlap_would_show() -> None:
    network, lr = Small(), random_lr(32, 32)
    whole = upscale(network, lr, device="cpu")
    network.tile_overlap = 5  # type: ignore[assignment]
    assert (upscale(network, lr, tile=8, device="cpu") - whole).abs().max() > 1e-3


def test_the_overlap_is_what_the_output_depends_on() -> None:
    network = Small()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    lr = random_lr(1, 41).requires_grad_()
    network(lr)[0, 0, 0, 2 * 20].backward()
    assert lr.grad is not None
    columns = lr.grad[0, 0, 0].nonzero().flatten()
    assert columns.tolist() == list(range(20 - 6, 20 + 6 + 1))
    assert tile_overlap(network) == 6


@pytest.mark.parametrize(
    ("conv", "radius"),
    [
        (nn.Conv2d(1, 1, 1), 0),
        (nn.Conv2d(1, 1, 3), 1),
        (nn.Conv2d(1, 1, 4), 2),
        (nn.Conv2d(1, 1, (3, 7)), 3),
        (nn.Conv2d(1, 1, 5, dilation=3), 6),
    ],
)
def test_the_radius_of_one_convolution(conv: nn.Conv2d, radius: int) -> None:
    assert tile_overlap(conv) == radius


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        (nn.Identity(), False),
        (nn.BatchNorm2d(8), False),
        (ContrastAwareChannelAttention(8, 2), True),
        (nn.AdaptiveAvgPool2d(1), True),
        (nn.InstanceNorm2d(8), True),
        (nn.GroupNorm(2, 8), True),
        (nn.Conv2d(8, 8, 3, stride=2), True),
    ],
)
def test_networks_that_see_the_whole_image_are_told(middle: nn.Module, expected: bool) -> None:
    assert pools_globally(Small(middle)) is expected


def test_with_global_pooling_tiles_run_but_differ() -> None:
    attention = ContrastAwareChannelAttention(8, 2)
    for parameter in attention.parameters():
        parameter.data.mul_(10)
    network, lr = Small(attention), random_lr(32, 32)
    lr[..., :16] *= 0.1
    whole, tiled = upscale(network, lr, device="cpu"), upscale(network, lr, tile=16, device="cpu")
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() > 1e-4
    torch.testing.assert_close(upscale(network, lr, tile=32, device="cpu"), whole)


def test_the_network_runs_in_eval_mode_and_keeps_its_modes() -> None:
    network, lr = Small(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5))), random_lr(9, 9)
    network.train()
    network.body[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = upscale(network, lr, device="cpu")
    assert network.training and not network.body[0].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    assert torch.equal(upscale(network, lr, device="cpu"), output)


def test_bf16_is_close_but_coarser() -> None:
    network, lr = Small(), random_lr(16, 16)
    exact = upscale(network, lr, device="cpu")
    coarse = upscale(network, lr, device="cpu", precision="bf16")
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().max() < 0.02
    torch.testing.assert_close(upscale(network, lr, tile=8, device="cpu", precision="bf16"), coarse, atol=0.01, rtol=0)


def test_a_tile_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1 pixel, not 0"):
        upscale(Small(), random_lr(4, 4), tile=0, device="cpu")


@pytest.mark.parametrize("network", [IMDN(2), IMDN(4), DLSR(2)], ids=["imdn x2", "imdn x4", "dlsr x2"])
def test_a_photo_of_20_megapixels_is_cut_in_the_largest_tiles_that_fit(network: nn.Module) -> None:
    tile = fitting_tile(network, (3648, 5472), "cpu")
    assert tile is not None
    side = tile + 2 * tile_overlap(network)
    needed = peak_activation_bytes(network, (side, side))
    assert 0.98 * 2**30 < needed <= 2**30


def test_what_fits_is_not_cut() -> None:
    network = IMDN(2)
    assert fitting_tile(network, (480, 480), "cpu") is None
    assert peak_activation_bytes(network, (480, 480)) <= 2**30
    assert fitting_tile(network, (800, 800), "cpu") is not None


def test_an_accelerator_is_asked_for_the_whole_image() -> None:
    assert fitting_tile(IMDN(2), (3648, 5472), "cuda") is None


class Slanted(nn.Module):
    """x2, with kernels that no flip and no turn leaves alone."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_it_is_the_mean_over_four_turns_and_their_mirror_images() -> None:
    network, lr = Slanted(), torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(1))
    outputs = []
    with torch.no_grad():
        for turns in range(4):
            outputs.append(network(lr.rot90(turns, (2, 3))).rot90(-turns, (2, 3)))
            outputs.append(network(lr.flip(3).rot90(turns, (2, 3))).rot90(-turns, (2, 3)).flip(3))
    expected = torch.stack(outputs).mean(0)
    found = upscale(network, lr, device="cpu", ensemble=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found - outputs[0]).abs().max() > 1e-3
    torch.testing.assert_close(upscale(network, lr, tile=5, device="cpu", ensemble=True), expected, atol=2e-6, rtol=0)


@pytest.mark.slow
def test_the_released_imdn_gains_a_tenth_of_a_decibel_on_set5(shared: Path) -> None:
    network = load_released(shared / "weights" / "IMDN_x4.pth", "imdn")
    pairs = folder([str(shared / "data/Set5/HR")], [str(shared / "data/Set5/LR_matlab/x4")], scale=4)
    score = evaluate_set(upscaler(network, device="cpu", ensemble=True), pairs, 4)["psnr"]
    assert score - 32.210 == pytest.approx(0.10, abs=0.01)
