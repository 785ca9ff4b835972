"""DLSR against the parameter counts of SA-DARTS' tables 3 and 7, and against its authors' definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sr_nas.complexity.costs import count_params
from sr_nas.errors import UserError
from sr_nas.genotype import GenotypeError
from sr_nas.networks.dlsr import DLSR


@pytest.mark.parametrize(
    ("genotype", "params"),
    [
        ("sep_conv_5x5, conv_1x1, sep_conv_7x7", 322_620),
        ("dil_conv_3x3, dil_conv_3x3, dil_conv_5x5", 264_732),
        ("sep_conv_3x3, sep_conv_3x3, sep_conv_3x3", 309_372),
        ("conv_7x7, conv_7x7, conv_7x7", 2_243_004),
    ],
)
def test_published_networks(genotype: str, params: int) -> None:
    assert count_params(DLSR(2, genotype=genotype)) == params


def test_the_released_network_is_the_default() -> None:
    assert count_params(DLSR()) == 327_804
    assert str(DLSR().genotype).endswith("cell2+cell1, cell3+cell2, cell4+cell3, cell1+cell3)")


def test_parameters_by_formula() -> None:
    """Any width, depth and scale, from the description in Huang et al. 2021."""
    for scale, nf, cells in ((2, 18, 6), (3, 48, 4), (4, 16, 2)):
        conv = lambda read, written, kernel=1: read * written * kernel**2 + written  # noqa: E731
        hidden = nf // 4
        attention = conv(nf, hidden) + conv(hidden, hidden) + 4 * conv(hidden, hidden, 3) + conv(hidden, nf)
        cell = 3 * nf * nf * 9 + 3 * conv(nf, nf // 2) + conv(nf, nf // 2, 3) + conv(4 * (nf // 2), nf) + attention
        joins = (cells - 2) * conv(2 * nf, nf)
        frame = conv(3, nf, 3) + conv(cells * nf, nf) + conv(nf, nf, 3) + conv(nf, 3 * scale**2, 3)
        network = DLSR(scale, nf, cells, genotype=["conv_3x3"] * 3)
        assert count_params(network) == cells * cell + joins + frame


def test_three_operations_alone_read_the_two_cells_before() -> None:
    short = DLSR(2, 8, 5, "conv_1x1,conv_3x3,conv_1x1").genotype
    assert short["inputs3"] == ("cell2", "cell1") and short["inputs5"] == ("cell4", "cell3")
    assert DLSR(2, 8, 2, ["conv_1x1"] * 3).genotype.names == ["conv_1x1"] * 3
    in_a_file = {"arch": "DLSR", "genotype": ["conv_1x1", "conv_3x3", "conv_1x1"]}
    assert DLSR(2, 8, 5, in_a_file).genotype == short


def test_forward_follows_the_published_definition() -> None:
    """The network spelled out once more, straight-line, from the description in Huang et al. 2021 and Liu et al. 2020."""
    torch.manual_seed(0)
    net = DLSR(3, nf=8, num_cells=4, genotype="sep_conv_3x3,dil_conv_5x5,conv_1x1,cell1+cell2,cell3+cell1").double()
    x = torch.rand(2, 3, 23, 21, dtype=torch.float64)

    def lrelu(value: torch.Tensor) -> torch.Tensor:
        return torch.where(value > 0, value, 0.05 * value)

    def conv(module: nn.Module, value: torch.Tensor, **how: int) -> torch.Tensor:
        assert isinstance(module, nn.Conv2d)
        return F.conv2d(value, module.weight, module.bias, **({"padding": module.kernel_size[0] // 2} | how))

    def separable(op: nn.Module, value: torch.Tensor) -> torch.Tensor:
        for depthwise, pointwise in ((op[1], op[2]), (op[4], op[5])):  # type: ignore[index]
            value = conv(pointwise, conv(depthwise, value.relu(), groups=8))
        return value

    def run(cell: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        kept = []
        for index, op in enumerate(cell.ops):  # type: ignore[arg-type]
            kept.append(lrelu(conv(cell.distill[index], hidden)))  # type: ignore[index]
            if index == 0:
                changed = separable(op, hidden)
            elif index == 1:
                changed = conv(op[2], conv(op[1], hidden.relu(), groups=8, padding=4, dilation=2))
            else:
                changed = conv(op, hidden)
            hidden = lrelu(changed + hidden)
        kept.append(lrelu(conv(cell.last, hidden)))  # type: ignore[arg-type]
        fused = conv(cell.fuse, torch.cat(kept, 1))  # type: ignore[arg-type]
        gate = cell.attention
        reduced = conv(gate.reduce, fused)  # type: ignore[arg-type]
        wide = F.max_pool2d(conv(gate.stride, reduced, stride=2, padding=0), 7, 3)  # type: ignore[arg-type]
        wide = conv(gate.wide[4], conv(gate.wide[2], conv(gate.wide[0], wide).relu()).relu())  # type: ignore[index]
        wide = F.interpolate(wide, (23, 21), mode="bilinear")
        return fused * torch.sigmoid(conv(gate.expand, wide + conv(gate.skip, reduced)))  # type: ignore[arg-type]

    shallow = conv(net.head, x)
    one = run(net.cells[0], shallow)
    two = run(net.cells[1], one)
    three = run(net.cells[2], lrelu(conv(net.joins["inputs3"], torch.cat([one, two], 1))))
    four = run(net.cells[3], lrelu(conv(net.joins["inputs4"], torch.cat([three, one], 1))))
    low = conv(net.body, lrelu(conv(net.fuse, torch.cat([one, two, three, four], 1)))) + shallow
    expected = conv(net.tail, low).reshape(2, 3, 3, 3, 23, 21).permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 69, 63)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (14, 40), (15, 15)])
def test_images_smaller_than_the_strided_path_are_upscaled_too(size: tuple[int, int]) -> None:
    found = DLSR(2, nf=8, num_cells=2, genotype=["conv_1x1"] * 3)(torch.rand(1, 3, *size))
    assert found.shape == (1, 3, 2 * size[0], 2 * size[1]) and found.isfinite().all()


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        ("sep_conv_3,sep_conv_3x3,conv_1x1", "did you mean 'sep_conv_3x3'.*conv_7x7"),
        ("conv_1x1,conv_1x1", "names 5 candidates"),
        ("conv_1x1,conv_1x1,conv_1x1,cell1+cell2,cell2", "DLSR.inputs4 keeps 2 different names of cell1, cell2, cell3"),
        ("conv_1x1,conv_1x1,conv_1x1,cell1+cell3,cell2+cell1", "'cell3' is not a candidate of DLSR.inputs3"),
        ({"op1": "conv_1x1", "op2": "conv_1x1", "op3": "conv_1x1"}, "lacks inputs3, inputs4"),
    ],
)
def test_genotypes_that_are_none_are_refused(genotype: object, words: str) -> None:
    with pytest.raises(GenotypeError, match=words) as caught:
        DLSR(2, 8, 4, genotype)
    assert isinstance(caught.value, UserError)


def test_the_published_genotype_is_of_six_cells() -> None:
    with pytest.raises(GenotypeError, match="With num_cells 4 name one, for example sep_conv_3x3, sep_conv_5x5, sep_conv_5x5"):
        DLSR(2, 8, 4)
