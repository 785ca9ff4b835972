"""The x8 self-ensemble against an explicit average over rotations and mirrors, and what it gains on Set5."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr_nas.data.sources import folder
from sr_nas.export.released import load_released
from sr_nas.inference.images import upscaler
from sr_nas.inference.tiles import upscale
from sr_nas.metrics import evaluate_set


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
