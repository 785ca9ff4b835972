"""The bundled accuracies of NAS-Bench-201, against published rows and the table they were made of."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sr_nas.classification import nasbench201_table
from sr_nas.classification.nasbench201 import EDGES, NASBENCH201_OPERATIONS, architecture_string, read_genotype
from sr_nas.classification.nasbench201_table import official_accuracy, open_official, place, table, true_accuracy
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from tests.jobs.processes import run

FILE = Path(nasbench201_table.__file__).with_name("nasbench201.npz")
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
    with np.load(FILE) as stored:
        assert stored["indices"][place(genotype.names)] == index
    accuracies = true_accuracy(genotype)
    assert accuracies is not None
    assert accuracies["cifar10"] == {"valid": pytest.approx(valid, abs=0.005), "test": pytest.approx(test, abs=0.005)}
    assert accuracies["cifar100"]["test"] == pytest.approx(hundred, abs=0.005)
    assert accuracies["imagenet16"]["test"] == pytest.approx(imagenet, abs=0.005)


def test_every_network_has_one_place_and_one_index() -> None:
    assert [place(names) for names in product(NASBENCH201_OPERATIONS, repeat=6)] == list(range(15_625))
    with np.load(FILE) as stored:
        assert sorted(stored["indices"].tolist()) == list(range(15_625))
    assert FILE.stat().st_size < 1_000_000


def test_the_best_network_is_the_published_optimum() -> None:
    best = table()[:, :, 1].max(axis=0)
    assert best.tolist() == pytest.approx([94.37, 73.51, 47.31], abs=0.006)


def test_other_networks_have_no_known_accuracy() -> None:
    assert true_accuracy(Genotype("IMDN", (("conv1", ("conv_3x3",)),))) is None


def test_all_rows_are_those_of_the_table(shared: Path) -> None:
    source = shared / "data" / "nb201_table.csv.gz"
    columns = ("c10_valid_200", "c10_test_200", "c100_valtest_200", "c100_test_200", "in16_valtest_200", "in16_test_200")
    with np.load(FILE) as stored:
        values, indices = stored["accuracies"].reshape(-1, len(columns)), stored["indices"]
    with gzip.open(source, "rt") as stream:
        for row in csv.DictReader(stream):
            where = place(re.findall(r"([^|~+]+)~\d", row["arch"]))
            assert indices[where] == int(row["index"])
            assert values[where].tolist() == np.float32([row[column] for column in columns]).tolist()
            if int(row["index"]) % 500 == 0:
                genotype = read_genotype(row["arch"])
                assert architecture_string(genotype) == row["arch"]
                truth = true_accuracy(genotype)
                assert truth is not None and truth["cifar10"]["test"] == pytest.approx(float(row["c10_test_200"]), abs=1e-4)
                assert truth["imagenet16"]["valid"] == pytest.approx(float(row["in16_valtest_200"]), abs=1e-4)


def test_the_order_of_edges_is_that_of_the_strings() -> None:
    assert EDGES == ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")


TEXT = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
OTHER = TEXT.replace("skip_connect~2", "none~2")
SEEDS = (777, 888)
# Of each training set of the benchmark its evaluations: after the last of two epochs, of the first seed. The second has 2 more.
LAST = {
    "cifar10-valid": {"x-valid": 38.0, "ori-test": 1.0},
    "cifar10": {"ori-test": 53.0},
    "cifar100": {"x-valid": 2.0, "x-test": 15.0, "ori-test": 14.0},
    "ImageNet16-120": {"x-valid": 3.0, "x-test": 17.0, "ori-test": 16.0},
}
MEANS = {
    "cifar10": {"valid": 39.0, "test": 54.0},
    "cifar100": {"valid": 15.0, "test": 16.0},
    "imagenet16": {"valid": 17.0, "test": 18.0},
}


def results(api: ModuleType, index: int) -> dict[str, Any]:
    """The state of two trainings, by the package's own classes."""
    trainings = api.ArchResults(index, TEXT)
    for data_set, sets in LAST.items():
        for number, seed in enumerate(SEEDS):
            losses = {0: 2.0, 1: 1.0}
            trial = api.ResultsCount(data_set, {}, losses, losses, 0.1, 10.0, {"arch_str": TEXT}, seed, 2, None)
            trial.update_train_info(losses, losses, losses, {0: 5.0, 1: 5.0})
            accuracies = {f"{name}@{epoch}": value * epoch + 2 * number for name, value in sets.items() for epoch in (0, 1)}
            trial.update_eval(accuracies, dict.fromkeys(accuracies, 0.5), dict.fromkeys(accuracies, 1.0))
            trainings.update(data_set, seed, trial)
    state: dict[str, Any] = trainings.state_dict()
    return state


@pytest.fixture
def folder_of_nats(tmp_path: Path) -> Path:
    """Two networks, the second without results."""
    package = pytest.importorskip("nats_bench")
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    package.pickle_save({"meta_archs": [TEXT, OTHER]}, folder / "meta", ".pickle.pbz2")
    package.pickle_save({"12": results(package, 0), "200": results(package, 0)}, folder / "000000", ".pickle.pbz2")
    return folder


def test_a_folder_of_nats_bench(folder_of_nats: Path) -> None:
    assert official_accuracy(read_genotype(TEXT), folder_of_nats) == MEANS
    with pytest.raises(UserError, match="tells no accuracies of"):
        official_accuracy(read_genotype(OTHER), folder_of_nats)
    with pytest.raises(UserError, match="tells no accuracies of"):
        official_accuracy(read_genotype(TEXT.replace("skip_connect", "none")), folder_of_nats)


def test_a_file_of_nats_bench(tmp_path: Path) -> None:
    package = pytest.importorskip("nats_bench")
    content = {"meta_archs": [TEXT], "arch2infos": {0: {"200": results(package, 0)}}, "evaluated_indexes": [0]}
    package.pickle_save(content, tmp_path / "NATS-tss-v1_0-3ffb9", ".pickle.pbz2")
    assert official_accuracy(read_genotype(TEXT), tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2") == MEANS


def test_a_file_of_nas_bench_201(tmp_path: Path) -> None:
    """With NumPy's numbers inside, as the official one has, which torch.load refuses by itself."""
    package = pytest.importorskip("nas_201_api")
    states = {kind: results(package, 0) for kind in ("less", "full")}
    content = {"meta_archs": [TEXT], "arch2infos": {0: states}, "evaluated_indexes": [0], "time": np.float64(1)}
    path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    torch.save(content, path)
    assert official_accuracy(read_genotype(TEXT), path) == MEANS


class StandIn:
    """Answers as both readers do: ``get_more_info`` of an index, averaged, after 200 epochs."""

    def query_index_by_arch(self, text: str) -> int:
        return [TEXT].index(text) if text == TEXT else -1

    def get_more_info(
        self, index: int, dataset: str, iepoch: None = None, hp: str = "12", is_random: bool = True
    ) -> dict[str, float]:
        assert (index, hp, is_random) == (0, "200", False)
        values = {name: value + 1 for name, value in LAST[dataset].items()}
        if dataset == "cifar10-valid":
            return {"valid-accuracy": values["x-valid"], "test-accuracy": values["ori-test"]}
        if dataset == "cifar10":
            return {"test-accuracy": values["ori-test"]}
        return {
            "valid-accuracy": values["x-valid"],
            "test-accuracy": values["x-test"],
            "valtest-accuracy": values["ori-test"],
        }


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def create(path: str, space: str, fast_mode: bool, verbose: bool) -> StandIn:
        assert (path, space, fast_mode, verbose) == (str(tmp_path), "tss", True, False)
        return StandIn()

    monkeypatch.setitem(sys.modules, "nats_bench", SimpleNamespace(create=create, __name__="nats_bench"))
    open_official.cache_clear()
    return tmp_path


def test_the_command_tells_what_the_official_file_does(stand_in: Path) -> None:
    words = ["complexity", "--arch", "nasbench201", "--genotype", TEXT]
    assert json.loads(run(*words, "--json"))["truth"] == true_accuracy(read_genotype(TEXT))
    assert json.loads(run(*words, "--official", stand_in, "--json"))["truth"] == MEANS
    assert "valid 15.00 test 16.00" in run(*words, "--official", stand_in)
    assert "knows networks of NASBench201" in run("complexity", "--arch", "imdn", "--official", stand_in, code=1)
    assert "--official tells of one network" in run("complexity", "--compare", "--official", stand_in, code=1)
    with pytest.raises(UserError, match="no such network"):
        official_accuracy(read_genotype(OTHER), stand_in)


def test_paths_and_readers_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genotype = read_genotype(TEXT)
    open_official.cache_clear()
    with pytest.raises(UserError, match=r"does not exist\. Expected: the folder NATS-tss"):
        official_accuracy(genotype, tmp_path / "gone")
    (tmp_path / "table.csv").touch()
    with pytest.raises(UserError, match="is of another kind"):
        official_accuracy(genotype, tmp_path / "table.csv")
    with pytest.raises(UserError, match="and this is one of IMDN"):
        official_accuracy(Genotype("IMDN", (("conv1", ("conv_3x3",)),)), tmp_path)
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(UserError, match=r"pip install 'sr_nas\[nasbench\]'"):
        official_accuracy(genotype, tmp_path)
