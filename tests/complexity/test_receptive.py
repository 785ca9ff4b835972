from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.receptive_field import receptive_field
from sr_nas.networks.imdn import IMDN


def conv(kernel: int, dilation: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, 3, kernel, stride, dilation * (kernel // 2), dilation, groups)


class Parallel(nn.Module):
    """The sum of its branches."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class SpatialAttention(nn.Module):
    """The gate of RFDN: 3x3 of stride 2, 7x7 pooling of stride 3, three 3x3, bilinear resampling to the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = nn.Conv2d(3, 3, 3, stride=2)
        self.convs = nn.Sequential(conv(3), nn.ReLU(inplace=True), conv(3), nn.ReLU(inplace=True), conv(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = self.convs(F.max_pool2d(self.stride(x), 7, 3))
        return x * F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False).sigmoid()


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (conv(1), 1),
        (conv(3), 3),
        (nn.Sequential(conv(3), nn.ReLU(), conv(5), nn.LeakyReLU(0.1), conv(7)), 1 + 2 + 4 + 6),
        (nn.Sequential(conv(3, dilation=2), conv(5, dilation=3), conv(3, groups=3)), 1 + 2 * 2 + 3 * 4 + 2),
        (nn.Sequential(conv(3, groups=3), nn.BatchNorm2d(3), nn.Hardtanh(), conv(3), nn.GELU(), nn.Sigmoid()), 5),
        (Parallel(nn.Identity(), nn.Sequential(conv(3), conv(3)), conv(7)), 7),
        (Parallel(nn.Sequential(conv(3), conv(3), conv(3), conv(3)), conv(7)), 9),
        (nn.MaxPool2d(5, stride=1, padding=2), 5),
        (nn.AvgPool2d(3, stride=1, padding=1), 3),
        (nn.Sequential(*[conv(5, dilation=32) for _ in range(6)]), 1 + 6 * 32 * 4),
    ],
)
def test_networks_that_keep_the_size(network: nn.Module, field: int) -> None:
    """1 + the sum of dilation * (kernel - 1) along the longest path (Araujo et al., Distill 2019, eq. 2)."""
    assert receptive_field(network) == field


@pytest.mark.parametrize("scale", [2, 3])
def test_upscaling_by_pixel_shuffle_adds_nothing(scale: int) -> None:
    assert receptive_field(nn.Sequential(conv(5), nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))) == 7


def test_convolutions_behind_the_upscaling_look_at_hr_pixels() -> None:
    """A 5x5 one spans three LR pixels at x2; bilinear x2 takes a neighbour for each of its two."""
    assert receptive_field(nn.Sequential(nn.Upsample(scale_factor=2), conv(5))) == 3
    assert receptive_field(nn.Upsample(scale_factor=2, mode="bilinear")) == 3


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ((conv(3, stride=2), nn.Upsample(scale_factor=2)), 3),
        ((conv(3, stride=2), conv(3), conv(5), nn.Upsample(scale_factor=2)), 3 + 2 * 2 + 2 * 4),
        ((conv(7, stride=3), conv(3), nn.Upsample(scale_factor=3)), 7 + 3 * 2),
        ((conv(3, stride=2), nn.MaxPool2d(2), conv(3), nn.Upsample(scale_factor=4)), None),
    ],
)
def test_strided_chains_follow_the_jump_formula(layers: tuple[nn.Module, ...], field: int | None) -> None:
    """Each layer adds (kernel - 1) * jump, the jump being the product of the strides before it."""
    found = receptive_field(nn.Sequential(*layers))
    if field is not None:
        assert found == field
    else:  # a product of 4 does not divide the six borders: right to one step of 4
        assert found is not None and abs(found - (3 + 2 + 2 * 4)) < 4


def test_spatial_attention_is_found_to_one_step_of_its_grid() -> None:
    """3, then + 6 * 2 = 15 with a jump of 6, + 3 * 2 * 6 = 51, and a neighbour more for the bilinear resampling: 57."""
    found = receptive_field(SpatialAttention())
    assert found is not None and abs(found - 57) <= 6


def test_the_larger_direction_counts() -> None:
    wide, tall = (nn.Conv2d(3, 3, kernel, padding=(kernel[0] // 2, kernel[1] // 2)) for kernel in ((1, 7), (9, 3)))
    assert receptive_field(wide) == 7
    assert receptive_field(tall) == 9


def test_looking_to_one_side_only() -> None:
    assert receptive_field(nn.Sequential(nn.ZeroPad2d((0, 4, 0, 0)), nn.Conv2d(3, 3, (1, 5)))) == 5


@pytest.mark.parametrize("network", [IMDN(2, nf=16, num_blocks=1), nn.Sequential(conv(3), nn.GroupNorm(1, 3))])
def test_a_global_pooling_sees_the_whole_image(network: nn.Module) -> None:
    assert receptive_field(network) is None


def test_one_direction_may_see_the_whole_image() -> None:
    class Columns(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(2, keepdim=True)

    assert receptive_field(Columns()) is None


def test_an_output_that_ignores_its_input_depends_on_nothing() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(x)

    assert receptive_field(Constant()) == 0


def test_weights_of_zero_hide_nothing_and_the_network_stays_as_it_was() -> None:
    network = nn.Sequential(conv(3), nn.BatchNorm2d(3), conv(3)).train()
    network[1].eval()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert receptive_field(network) == 5
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="whole multiple"):
        receptive_field(nn.Conv2d(3, 3, 3))

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0 - x / 0

    with pytest.raises(ValueError, match="NaN for an image without NaN"):
        receptive_field(Broken())
