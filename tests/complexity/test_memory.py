"""Peaks by hand: a float of one channel of the 6x10 image is a plane of 240 bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.costs import footprint
from sr_nas.complexity.memory import PROBE, StorageTracker, extrapolated_peak, peak_activation_bytes, tracked_peak
from sr_nas.networks.imdn import IMDN

PLANE = 4 * 6 * 10


class Forward(nn.Module):
    """A function of two convolutions, 3 -> 8 and 8 -> 8 channels, and the image."""

    def __init__(self, function: Callable[[nn.Module, nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.first, self.second = function, nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.first, self.second, x)


def residual(first: nn.Module, second: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = first(x)
    return second(second(hidden)) + hidden


def joined(first: nn.Module, second: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = first(x)
    return torch.cat((hidden, second(hidden)), 1)


def split(first: nn.Module, second: nn.Module, x: torch.Tensor) -> torch.Tensor:
    left, right = first(x).split(4, dim=1)
    return torch.cat((right.mT.mT, left[:, :2]), 1)


CASES = {
    "two in a row: input, hidden, output": (lambda first, second, x: second(first(x)), 3 + 8 + 8),
    "the hidden layer is gone at the end": (lambda first, second, x: second(first(x)).repeat(1, 2, 1, 1), 3 + 8 + 16),
    "an activation takes memory": (lambda first, second, x: F.relu(first(x)), 3 + 8 + 8),
    "in place it takes none": (lambda first, second, x: F.relu_(first(x)), 3 + 8),
    "a residual is kept over what it skips": (residual, 3 + 8 + 8 + 8),
    "a concatenation copies": (joined, 3 + 8 + 8 + 16),
    "views take none, and keep all of what they show": (split, 3 + 8 + 6),
    "a view is no output of its own": (lambda first, second, x: first(x).flatten(2), 3 + 8),
    "the input counts when nothing else does": (lambda first, second, x: x, 3),
    "parameters do not count": (lambda first, second, x: first.weight.flatten() * 1, 3 + 8 * 3 * 9 / 60),
}


@pytest.mark.parametrize("case", CASES)
def test_peaks_by_hand(case: str) -> None:
    function, planes = CASES[case]
    assert peak_activation_bytes(Forward(function), (6, 10)) == planes * PLANE


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_computes_gives_the_same(case: str) -> None:
    function, planes = CASES[case]
    assert tracked_peak(Forward(function), torch.rand(1, 3, 6, 10)) == planes * PLANE


def test_imdn_on_the_meta_device_is_imdn_on_the_cpu() -> None:
    network = IMDN(3, nf=16, num_blocks=2).eval()
    assert peak_activation_bytes(network, (20, 28)) == tracked_peak(network, torch.rand(1, 3, 20, 28))


def test_imdn_at_720p() -> None:
    """All six blocks' outputs and their concatenation, the last block's features and the first ones, and the image."""
    network = IMDN(4)
    channels = 6 * 64 + 6 * 64 + 64 + 3 + 64
    assert peak_activation_bytes(network, (180, 320)) == 4 * 180 * 320 * channels


def test_the_network_stays_as_it_was_and_is_measured_in_single_precision() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    statistics_on_meta = 2 * 4 * 4
    assert peak_activation_bytes(network, (6, 10)) == (3 + 4 + 4) * PLANE + statistics_on_meta
    assert network.training and all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_footprint_is_that_of_an_hr_output_of_1280x720() -> None:
    network = IMDN(4, nf=16, num_blocks=1)
    assert footprint(network) == {"receptive_field": None, "peak_activation_bytes": peak_activation_bytes(network, (180, 320))}


@pytest.mark.parametrize("size", [(17, 19), (12, 20), (40, 24)])
def test_a_step_on_a_tiny_image_tells_what_larger_ones_take(size: tuple[int, int]) -> None:
    """Forward and backward of three images, against the same step followed at its own size."""
    network = Forward(lambda first, second, x: second(F.leaky_relu(second(F.relu_(first(x))))).square().mean())

    def step(x: torch.Tensor) -> None:
        network.zero_grad()
        network(x).backward()

    x, probe = torch.rand(3, 3, *size), torch.rand(1, 3, *PROBE)
    tracker = StorageTracker(network.parameters())
    tracker.follow(x)
    with tracker:
        step(x)
    assert extrapolated_peak(lambda: step(probe), x.numel() // 3, network.parameters(), [probe]) == tracker.peak


def test_a_network_that_asks_for_values_runs_on_the_cpu() -> None:
    def asking(first: nn.Module, second: nn.Module, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = first(x)
        assert hidden.mean().item() < 100
        return hidden

    assert peak_activation_bytes(Forward(asking), (6, 10)) == pytest.approx((3 + 8) * PLANE, abs=4)
