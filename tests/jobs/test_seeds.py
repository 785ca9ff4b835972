"""Many seeds: what they come to, and that they run, resume and fail one by one."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_nas.analysis.seeds import Seeds, finished, run_seeds, summarise
from sr_nas.classification.nasbench201_table import table
from sr_nas.cli import seeds
from sr_nas.runs.run_dir import CHECKPOINT, append_history, read_history
from tests.conftest import REPOSITORY
from tests.jobs.processes import run

RANDOM = REPOSITORY / "options" / "nasbench201" / "random.yml"


def record(test: float, beta: list[float], kept: str, epoch: int = 3) -> dict[str, Any]:
    genotype = {"arch": "NASBench201", "genotype": {"1<-0": kept, "2<-0": "nor_conv_3x3"}}
    return {
        "epoch": epoch,
        "beta": {"1<-0": beta, "2<-0": [0.9, 0.1], "inputs2": [0.5, 0.5]},
        "genotype": genotype,
        "params": 100 * epoch,
        "true_accuracy": {"cifar10": {"test": test}},
    }


def test_figures_over_seeds_by_hand(tmp_path: Path) -> None:
    for seed, found in enumerate([record(90.0, [0.6, 0.4], "skip_connect"), record(94.0, [0.7, 0.3], "none")]):
        (tmp_path / str(seed)).mkdir()
        append_history(tmp_path / str(seed), found)
    result = summarise({seed: tmp_path / str(seed) for seed in (0, 1)}, tmp_path)
    figures = result["figures"]
    assert figures["cifar10 test"] == {"mean": 92.0, "std": pytest.approx(statistics.stdev([90, 94])), "min": 90.0, "max": 94.0}
    assert figures["smallest top-2 gap"]["mean"] == pytest.approx((0.2 + 0.4) / 2), "choices of inputs do not count"
    assert figures["skip share"] == {"mean": 0.25, "std": pytest.approx(0.5 / 2**0.5), "min": 0.0, "max": 0.5}
    assert json.loads((tmp_path / "seeds.json").read_text())["figures"] == figures


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    append_history(tmp_path, record(90.0, [0.6, 0.4], "none"))
    assert summarise({0: tmp_path})["figures"]["cifar10 test"]["std"] == 0


def test_a_search_that_is_not_at_its_end_does_not_count(tmp_path: Path) -> None:
    for seed, epoch in ((0, 3), (1, 2)):
        folder = tmp_path / f"x_seed{seed}"
        folder.mkdir()
        (folder / CHECKPOINT).touch()
        append_history(folder, record(90.0, [0.6, 0.4], "none", epoch))
    plan = Seeds("x.yml", (), "x", tmp_path, (0, 1, 2), 1, 3)
    assert finished(plan) == {0: tmp_path / "x_seed0"}


@pytest.mark.parametrize(("text", "found"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,2,5-6", [0, 2, 5, 6])])
def test_seeds_are_read(text: str, found: list[int]) -> None:
    assert seeds(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "1,1", "3-1"])
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        seeds(text)


def tiny(tmp_path: Path) -> list[str]:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "i.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images, y_test=[0, 1, 0, 1], classes=["a", "b"])
    words = [f"datasets:train={{type: npz, dataroot: {tmp_path / 'i.npz'}}}", f"path:experiments_root={tmp_path}"]
    return ["-opt", str(RANDOM), "--force_yml", *words, "network_g:channels=4", "network_g:num_cells=1"]


def test_seeds_run_apart_and_are_summed_up(tmp_path: Path) -> None:
    command = tiny(tmp_path)
    printed = run("search", *command, "--seeds", "0,1")
    found = json.loads((tmp_path / "random_nasbench201_seeds" / "seeds.json").read_text())
    assert "2 of 2 seeds" in printed and len({own["genotype"] for own in found["seeds"].values()}) == 2
    tests = [own["cifar10 test"] for own in found["seeds"].values()]
    assert found["figures"]["cifar10 test"]["mean"] == pytest.approx(statistics.fmean(tests))
    assert all(test in np.round(table()[0][:, 0, 1].astype(float), 4) for test in tests)


@pytest.mark.slow
def test_a_seed_that_is_done_is_not_made_again(tmp_path: Path) -> None:
    command = tiny(tmp_path)
    run("search", *command, "--seeds", "1")
    before = read_history(tmp_path / "random_nasbench201_seed1")
    run("search", *command, "--seeds", "1")
    assert read_history(tmp_path / "random_nasbench201_seed1") == before
    assert not (tmp_path / "random_nasbench201_seed1_2").exists()


def test_a_seed_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("name: x\nscale: 5\n")
    said: list[str] = []
    with pytest.raises(Exception, match="seeds 3 failed"):
        run_seeds(Seeds(str(tmp_path / "x.yml"), (), "x", tmp_path, (3,), 1, 1), said.append)
    assert said[-1].startswith("seed 3 failed")
