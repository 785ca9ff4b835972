from __future__ import annotations

import pytest
import torch
from torch import nn

from sr_nas.complexity.costs import cost_table
from sr_nas.errors import UserError
from sr_nas.genotype import genotype_from
from sr_nas.networks.imdn import IMDN
from sr_nas.registry import COSTS
from sr_nas.spaces.imdn import IMDNSpace


def test_the_same_alpha_serves_all_blocks() -> None:
    space = IMDNSpace(2, nf=16, num_blocks=3)
    assert list(space.choices()) == ["conv1", "conv2", "conv3", "conv4"]
    genotype = genotype_from("conv_3x3,dsconv_5x5,dil_dsconv_3x3,conv_5x5", "IMDN", IMDN.choices())
    assert [type(block.convs[1]).__name__ for block in space.derive(genotype).blocks] == ["Sequential"] * 3


def test_costs_by_hand() -> None:
    """conv_3x3 64 -> 64 at 1280x720: 64 * 64 * 9 multiply-adds per pixel; a depthwise-separable one 64 * 9 + 64 * 64."""
    space = IMDNSpace(4)
    names, pixels = list(space.candidates), 1280 * 720
    table = cost_table(space, "flops")
    assert table["conv1"][names.index("conv_3x3")].item() == pytest.approx(6 * 64 * 64 * 9 * pixels)
    assert table["conv1"][names.index("dil_dsconv_3x3")].item() == pytest.approx(6 * (64 * 9 + 64 * 64) * pixels)
    assert table["conv4"][names.index("conv_5x5")].item() == pytest.approx(6 * 48 * 16 * 25 * pixels)


def test_the_cost_table_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space, measured = IMDNSpace(2, nf=20, num_blocks=1), []

    def weigh(candidate: nn.Module, channels: int, downscale: int) -> float:
        measured.append(candidate)
        return float(channels)

    monkeypatch.setitem(COSTS._entries, "weight", weigh)
    first = cost_table(space, "weight")
    assert len(measured) == 3 * 12, "conv2 and conv3 have the same channels"
    assert all(torch.equal(first[label], table) for label, table in cost_table(space, "weight").items())
    assert len(measured) == 3 * 12

    def weigh_again(candidate: nn.Module, channels: int, downscale: int) -> float:
        return 2.0 * channels

    monkeypatch.setitem(COSTS._entries, "weight", weigh_again)
    assert all(torch.equal(2 * first[label], table) for label, table in cost_table(space, "weight").items())


def test_a_cost_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COSTS._entries, "nothing", lambda candidate, channels, downscale: 0.0)
    with pytest.raises(UserError, match=r"search\.nothing_weight: no candidate of conv1, conv2, conv3, conv4 costs anything"):
        cost_table(IMDNSpace(2, nf=16, num_blocks=1), "nothing")
