"""Parameters and MACs at any image size; costs of candidates, and their table for a space (sums: tests/spaces)."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.costs import LR_1280x720, complexity, cost_table, count_macs, macs_lr, params, per_layer, shallowness
from sr_nas.contracts import CostSite
from sr_nas.errors import UserError
from sr_nas.networks.imdn import IMDN
from sr_nas.search.objective import normalised_cost
from sr_nas.spaces.plain import PlainSpace


class SpatialAttention(nn.Module):
    """A gate from a coarse map: stride 2, then a pooling of stride 3, neither padded, and back to the input's size."""

    def __init__(self, nf: int = 5, f: int = 2) -> None:
        super().__init__()
        self.reduce, self.stride, self.coarse, self.expand = (
            nn.Conv2d(nf, f, 1),
            nn.Conv2d(f, f, 3, stride=2),
            nn.Conv2d(f, f, 3, padding=1),
            nn.Conv2d(f, nf, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = self.coarse(F.max_pool2d(self.stride(self.reduce(x)), 7, 3))
        coarse = F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
        return x * self.expand(coarse).sigmoid()


def fvcores_own(network: nn.Module, channels: int, height: int, width: int) -> dict[str, int]:
    from fvcore.nn import FlopCountAnalysis

    x = torch.zeros(1, channels, height, width)
    return dict(FlopCountAnalysis(network.eval(), x).unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module())


@pytest.mark.parametrize("size", [(90, 70), (211, 173), (20, 300), (174, 333), (192, 197), (161, 31)])
def test_strided_networks_are_counted_as_fvcore_counts_them_at_that_size(size: tuple[int, int]) -> None:
    """The residues of the sides modulo 6, the product of the strides: (0, 4), (1, 5), (2, 0), (0, 3), (0, 5), (5, 1)."""
    network = SpatialAttention()
    assert count_macs(network, size, channels=5)[0] == fvcores_own(network, 5, *size)


@pytest.mark.parametrize("strides", [(2, 2), (2, 2, 2), (4, 4), (3, 2, 4), (16, 3)])
@pytest.mark.parametrize("size", [(211, 173), (198, 205)])
def test_every_product_of_strides_that_divides_48(strides: tuple[int, ...], size: tuple[int, int]) -> None:
    network = nn.Sequential(*[nn.Conv2d(3, 3, 1, stride) for stride in strides])
    assert count_macs(network, size)[0] == fvcores_own(network, 3, *size)


def test_layers_of_a_strided_network_by_hand() -> None:
    """At 720x1280: 359 x 639 behind the stride of 2, then 118 x 211 behind the pooling's stride of 3."""
    (found,) = count_macs(SpatialAttention(), LR_1280x720, channels=5)
    assert found["reduce"] == 720 * 1280 * 5 * 2
    assert found["stride"] == 359 * 639 * 2 * 2 * 9
    assert found["coarse"] == 118 * 211 * 2 * 2 * 9
    assert found["expand"] == 720 * 1280 * 2 * 5


def test_the_extrapolation_is_fvcores_own_count_at_full_size() -> None:
    """Counted where it can be afforded: fvcore at 224x208 and the form must agree to the last multiply-add."""
    network = IMDN(3, nf=16, num_blocks=2, genotype="conv_5x5_bn,dil_dsconv_5x5,dsconv_3x3_bn,conv_3x3")
    assert count_macs(network, (224, 208))[0] == fvcores_own(network, 3, 224, 208)


def test_a_size_between_pixels_has_the_linear_count() -> None:
    conv = nn.Conv2d(3, 7, 3, padding=1)
    assert count_macs(conv, (240, Fraction(1280, 3)))[0][""] == 3 * 7 * 9 * 720 * 1280 // 9
    assert count_macs(conv, (240, 1280 / 3))[0][""] == 3 * 7 * 9 * 720 * 1280 // 9
    assert count_macs(conv, (20.5, 30))[0][""] == 3 * 7 * 9 * 615


def test_a_strided_network_between_pixels_continues_its_class() -> None:
    """The form of the widths 427 + 48 k, here its straight line through 427 and 475, is followed to 426 2/3."""
    network = SpatialAttention()
    at_427, at_475 = (fvcores_own(network, 5, 240, width)[""] for width in (427, 475))
    expected = at_427 - Fraction(at_475 - at_427, 48) / 3
    assert count_macs(network, (240, Fraction(1280, 3)), channels=5)[0][""] == round(expected)


@pytest.mark.long
def test_layers_add_up() -> None:
    network = IMDN(4)
    rows = per_layer(network)
    assert sum(params for _, _, params, _ in rows) == 715_176
    # What is left is the attention's pooling, which has a functional form and so no layer of its own.
    pooling = 6 * 64 * 1280 * 720
    assert complexity(network)["macs_lr_1280x720"] - sum(macs for *_, macs in rows) == pooling


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_macs(network, LR_1280x720)
    assert [module.training for module in network.modules()] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class Product(nn.Module):
    """Multiply-adds that grow with the square of the height, or of the width."""

    def __init__(self, among: str) -> None:
        super().__init__()
        self.among = among

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.mT if self.among == "rows" else x.mT @ x


@pytest.mark.parametrize("among", ["rows", "columns"])
def test_what_grows_faster_than_the_image_is_refused(among: str) -> None:
    with pytest.raises(UserError, match="multiply-adds of Product do not follow"):
        count_macs(Product(among), LR_1280x720)


@pytest.mark.parametrize("stride", [5, 7, 9, 10, 14, 18, 22])
def test_strides_whose_product_does_not_divide_48_are_refused(stride: int) -> None:
    with pytest.raises(UserError, match="congruent modulo 48"):
        count_macs(nn.Conv2d(3, 3, 1, stride), LR_1280x720)


def test_a_small_image_is_traced_whatever_its_form() -> None:
    assert count_macs(Product("rows"), (20, 30))[0][""] == 3 * 20 * 20 * 30


def test_costs_of_a_candidate() -> None:
    """A 3x3 convolution 8 -> 4 with biases, at a quarter of 1280x720 per side."""
    candidate = nn.Conv2d(8, 4, 3, padding=1)
    assert macs_lr(candidate, 8, 4) == 8 * 4 * 9 * 320 * 180
    assert macs_lr(nn.Conv2d(8, 4, 1), 8, 3) == 8 * 4 * 1280 * 720 / 9
    assert params(candidate, 8, 4) == 8 * 4 * 9 + 4
    assert shallowness(candidate) == 1 / 2 and shallowness(nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(3))) == 1


class Space:
    """Two labels that share a site of three places, of which one label has another place at half the size."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def choices(self) -> dict[str, Any]:
        return dict.fromkeys("ab", SimpleNamespace(candidates=("none", "conv")))

    def build(self, name: str) -> nn.Module:
        self.built.append(name)
        return nn.Conv2d(2, 4, 1, bias=False) if name == "conv" else nn.Identity()

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        shared = CostSite(self.build, 2, count=3)
        return {"a": (shared,), "b": (shared, CostSite(self.build, 2, downscale=2))}


def test_a_table_sums_over_the_places_of_a_label() -> None:
    space = Space()
    state = torch.get_rng_state()
    table = cost_table(space, "flops")  # type: ignore[arg-type]
    macs = 8 * 1280 * 720
    assert {label: costs.tolist() for label, costs in table.items()} == {"a": [0, 3 * macs], "b": [0, 3 * macs + macs / 4]}
    assert torch.equal(torch.get_rng_state(), state), "measuring must not draw random numbers"
    assert sorted(space.built) == ["conv", "conv", "none", "none"], "a shared site is measured once"


def test_labels_that_all_cost_nothing_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Space, "build", lambda self, name: nn.Identity())
    with pytest.raises(UserError, match=r"search: no candidate of a, b costs anything in params"):
        cost_table(Space(), "params")  # type: ignore[arg-type]


def test_a_label_that_costs_nothing_beside_others_is_none() -> None:
    space = PlainSpace(2, nf=8, num_blocks=1, candidates=["conv_3x3_2", "conv_3x3_3"], attentions=["none", "spab"])
    table = cost_table(space, "params")
    assert table["attention1"].tolist() == [0, 0]
    weights = {"body1": torch.tensor([1.0, 0.0]), "attention1": torch.tensor([0.5, 0.5])}
    share = normalised_cost(weights, {label: costs.float() for label, costs in table.items()})
    assert share.item() == pytest.approx((2 / 5 + 0) / 2)
