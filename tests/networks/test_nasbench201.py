"""The networks of NAS-Bench-201, against the benchmark's own counts and a cell written out by hand."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sr_nas.classification.nasbench201 import NASBench201, architecture_string, read_genotype
from sr_nas.complexity.costs import classifier_complexity, count_params
from sr_nas.genotype import GenotypeError

MIXED = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


def test_parameters_are_those_of_the_table(shared: Path) -> None:
    with gzip.open(shared / "data" / "nb201_table.csv.gz", "rt") as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["index"]) in (0, 1, 1835, 5000, 9930, 15624)]
    for row in rows:
        assert count_params(NASBench201(genotype=row["arch"])) == int(row["params_calc_c10"])


def test_complexity_of_the_plain_network() -> None:
    """Every edge a 3x3 convolution: 1,531,546 parameters and 220.12 M multiply-adds, of which the stem takes 0.44 M.

    By hand: an edge costs 9 C^2 H W, which is the same in all three stages.
    """
    edge = 9 * 16 * 16 * 32 * 32
    found = classifier_complexity(NASBench201())
    assert found["params"] == 1_531_546
    blocks = sum(
        (9 * c * 2 * c + 9 * 2 * c * 2 * c + c * 2 * c) * side * side for c, side in ((16, 16), (32, 8))
    )  # two residual blocks
    norms = found["macs_32x32"] - (15 * 6 * edge + blocks + 9 * 3 * 16 * 32 * 32 + 640)
    assert 0 <= norms < 0.03 * found["macs_32x32"], "fvcore counts BatchNorms and poolings too"


def test_strings_go_both_ways() -> None:
    genotype = read_genotype(MIXED)
    assert architecture_string(genotype) == MIXED
    assert genotype.names == ["nor_conv_3x3", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "none", "nor_conv_3x3"]
    assert read_genotype(genotype.names) == read_genotype(genotype.to_json()) == genotype


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv' is not a candidate of NASBench201.1<-0"),
        ("|none~0|+|none~0|none~1|", "lacks 3<-0"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "is no architecture of NAS-Bench-201"),
        ("|none~0|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "is no architecture of NAS-Bench-201"),
        ("none~0|", "is no architecture of NAS-Bench-201"),
    ],
)
def test_wrong_strings_are_refused(text: str, says: str) -> None:
    with pytest.raises(GenotypeError, match=says.replace("|", r"\|")):
        read_genotype(text)


def test_a_cell_by_hand() -> None:
    torch.manual_seed(0)
    network = NASBench201(channels=4, num_cells=1, genotype=MIXED).double().train()
    cell, x = network.stages[0][0], torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def convolved(label: str, y: torch.Tensor, padding: int) -> torch.Tensor:
        z = F.conv2d(y.clamp_min(0), cell.edges[label][1].weight, padding=padding)
        mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
        return (z - mean) / (variance + 1e-5).sqrt()

    ones = F.conv2d(torch.ones_like(x[:, :1]), torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
    pooled = F.conv2d(x, torch.ones(4, 1, 3, 3, dtype=torch.float64), padding=1, groups=4) / ones
    first = convolved("1<-0", x, 1)
    second = pooled + convolved("2<-1", first, 0)
    torch.testing.assert_close(cell(x), x + convolved("3<-2", second, 1), rtol=1e-10, atol=1e-10)
