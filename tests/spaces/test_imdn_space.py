from __future__ import annotations

import pytest

from sr_nas.complexity.costs import cost_table
from sr_nas.genotype import genotype_from
from sr_nas.networks.imdn import IMDN
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
