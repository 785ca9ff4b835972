"""The bundled accuracies of NAS-Bench-201, against published rows and the table they were made of."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_nas.classification import nasbench201_table as table
from sr_nas.classification.nasbench201 import EDGES, architecture_string, read_genotype
from sr_nas.classification.nasbench201_table import pack
from sr_nas.genotype import Genotype

# Index, CIFAR-10 valid and test, CIFAR-100 test, ImageNet16-120 test: table 6 of SA-DARTS names both.
KNOWN = {
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|": (
        1835, 39.77, 54.30, 15.61, 16.32
    ),
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|": (
        9930, 91.55, 94.36, 73.51, 46.34
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", KNOWN)
def test_published_rows(text: str) -> None:
    genotype = read_genotype(text)
    index, valid, test, hundred, imagenet = KNOWN[text]
    assert table.official_index(genotype) == index
    found = table.true_accuracy(genotype)
    assert found is not None
    assert found["cifar10"] == {"valid": pytest.approx(valid, abs=0.005), "test": pytest.approx(test, abs=0.005)}
    assert found["cifar100"]["test"] == pytest.approx(hundred, abs=0.005)
    assert found["imagenet16"]["test"] == pytest.approx(imagenet, abs=0.005)


def test_every_network_has_one_place_and_one_index() -> None:
    assert sorted(table.table()[1].tolist()) == list(range(15_625))
    assert [table.place(table.names_at(where)) for where in range(15_625)] == list(range(15_625))
    assert table.names_at(15_624) == ("avg_pool_3x3",) * 6


def test_the_best_network_is_the_published_optimum() -> None:
    best = table.table()[0][:, :, 1].max(axis=0)
    assert best.tolist() == pytest.approx([94.37, 73.51, 47.31], abs=0.006)


def test_other_networks_have_no_known_accuracy() -> None:
    assert table.true_accuracy(Genotype("IMDN", (("conv1", ("conv_3x3",)),))) is None


def test_all_rows_are_those_of_the_table(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "nb201_table.csv.gz"
    pack(source, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as made:
        assert np.array_equal(made["accuracies"], table.table()[0]) and np.array_equal(made["indices"], table.table()[1])
    with gzip.open(source, "rt") as stream:
        for row in csv.DictReader(stream):
            if int(row["index"]) % 500 == 0:
                genotype = read_genotype(row["arch"])
                assert architecture_string(genotype) == row["arch"]
                found = table.true_accuracy(genotype)
                assert found is not None and found["cifar10"]["test"] == pytest.approx(float(row["c10_test_200"]), abs=1e-4)
                assert found["imagenet16"]["valid"] == pytest.approx(float(row["in16_valtest_200"]), abs=1e-4)


def test_the_file_is_small_and_needs_no_torch() -> None:
    assert Path(table.__file__).with_name(table.FILE).stat().st_size < 1_000_000
    code = "import sys; from sr_nas.classification.nasbench201_table import table; table(); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"


def test_the_order_of_edges_is_that_of_the_strings() -> None:
    assert EDGES == ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
