"""A whole search of a classifier, from an option file, and taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from sr_nas.classification.nasbench201 import read_genotype
from sr_nas.classification.nasbench201_table import true_accuracy
from sr_nas.runs.run_dir import read_history
from tests.conftest import REPOSITORY
from tests.jobs.processes import run
from tests.jobs.test_search_runs import assert_equal, everything

DARTS = REPOSITORY / "options" / "nasbench201" / "darts.yml"
TINY = (
    "name=tiny",
    "num_gpu=0",
    "network_g:channels=4",
    "network_g:num_cells=1",
    "datasets:train:batch_size_per_gpu=4",
    "search:epochs=2",
    "search:steps_per_epoch=2",
)


def search(root: Path, *overrides: str, code: int = 0, file: Path = DARTS) -> str:
    if not (root / "images.npz").exists():
        generator = np.random.default_rng(0)
        images, labels = generator.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), np.arange(16) % 3
        np.savez(root / "images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, classes=["a", "b", "c"])
    data = f"datasets:train={{type: npz, dataroot: {root / 'images.npz'}}}"
    words = ["--force_yml", f"path:experiments_root={root}", data, *TINY, *overrides]
    return run("search", "-opt", file, *words, code=code)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("classifier")
    return root / "tiny", search(root)


def test_every_epoch_logs_the_true_accuracy_of_its_network(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    history = read_history(folder)
    assert [record["epoch"] for record in history] == [0, 1, 2]
    for record in history:
        genotype = read_genotype(record["genotype"])
        assert record["truth"] == true_accuracy(genotype)
    last = history[-1]["truth"]["cifar10"]
    assert f"cifar10 valid {last['valid']:.2f} test {last['test']:.2f}" in printed


def test_the_network_block_names_its_task(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    block = yaml.safe_load((folder / "network_g.yml").read_text())
    genotype = read_genotype(json.loads((folder / "genotype.json").read_text()))
    assert block["task"] == "classification"
    assert read_genotype(block["network_g"]["genotype"]) == genotype and block["network_g"]["type"] == "NASBench201"


@pytest.mark.slow
def test_a_search_of_the_darts_space_reports_what_it_keeps(tmp_path: Path, reports: None) -> None:
    settings = ("network_g:num_cells=3", "search:epochs=1")
    search(tmp_path, *settings, file=REPOSITORY / "options" / "darts" / "s1.yml")
    kept = json.loads((tmp_path / "tiny" / "genotype.json").read_text())["genotype"]
    assert len(kept) == 8 and {len(names) for names in kept.values()} == {2}
    page = (tmp_path / "tiny" / "report.html").read_text()
    assert all(name.partition("~")[0] in page for names in kept.values() for name in names)


def test_one_seed_gives_one_result(finished: tuple[Path, str], tmp_path: Path) -> None:
    search(tmp_path)
    assert_equal(everything(finished[0]), everything(tmp_path / "tiny"))


def test_a_task_that_there_is_not(tmp_path: Path) -> None:
    printed = search(tmp_path, "task=clasification", code=1)
    assert (
        "task: there is no 'clasification' here - did you mean 'classification'? Allowed: super-resolution, classification."
        in printed
    )


def test_exhausted_memory_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sr_nas.search.searcher.Searcher.alpha_step", exhausted)
    least = ("search:order=first", "datasets:train:num_worker_per_gpu=0", "datasets:train:batch_size_per_gpu=1")
    text = search(tmp_path, *least[:2], code=1)
    assert "(K, now 1) or lower datasets.train.batch_size_per_gpu (now 4), in a new run. The last checkpoint is" in text
    assert "To take less, raise network_g.partial_channel (K, now 1), in a new run" in search(tmp_path, *least, code=1)


PDARTS = ("network_g:nodes=2", "network_g:multiplier=2", "network_g:num_cells=3", "search:warmup_epochs=0")


def stage(root: Path, number: int, *overrides: str, code: int = 0) -> str:
    """A stage of P-DARTS, tiny, after the one before it."""
    before = [f"search:candidates_from:run={root / f'pdarts_{number - 1}'}"] * (number > 1)
    file = REPOSITORY / "options" / "darts" / f"pdarts_{number}.yml"
    return search(root, *PDARTS, f"name=pdarts_{number}", *before, *overrides, code=code, file=file)


@pytest.mark.slow
def test_the_stages_of_p_darts(tmp_path: Path) -> None:
    stage(tmp_path, 1, "search:alpha:value=1")
    for number, left, rate in ((2, 5, 0.4), (3, 3, 0.7)):
        folder = tmp_path / f"pdarts_{number}"
        stage(tmp_path, number, "search:alpha:value=1", *(("--until", "1") if number == 2 else ()))
        if number == 2:
            assert "has no genotype.json: is its search finished?" in stage(tmp_path, 3, code=1)
            assert f"going on in {folder}" in stage(tmp_path, number, "search:alpha:value=1", "--auto_resume")
        history = read_history(folder)
        assert all(len(alpha) == left for record in history for alpha in record["alpha"].values())
        assert [record["over_epochs"]["skip_dropout"] for record in history] == pytest.approx([rate, rate / 2, 0.0])
    assert history[-1]["selection"]["skip_connections"] <= 2
