"""Many seeds: what they come to, and that they run, resume and fail one by one."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_nas.analysis import sweep
from sr_nas.analysis.sweep import Seeds, finished, run_seeds, summarise
from sr_nas.classification.nasbench201 import EDGES
from sr_nas.classification.nasbench201_table import table
from sr_nas.cli import seeds
from sr_nas.errors import UserError
from sr_nas.options.load import dump_options, load_options
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, append_history, read_history
from sr_nas.task import find_task, search_options
from tests.conftest import REPOSITORY
from tests.jobs.processes import run

RANDOM = REPOSITORY / "options" / "nasbench201" / "random.yml"
DLSR = REPOSITORY / "options" / "paper" / "sa_dlsr.yml"


def made_up(folder: Path, file: Path, **record: Any) -> Path:
    """A run of a search whose only record is this one."""
    folder.mkdir(parents=True)
    options = load_options(search_options, file, [f"name={folder.name}"], check_files=False)
    (folder / OPTIONS).write_text(dump_options(options))
    (folder / CHECKPOINT).touch()
    append_history(folder, {"epoch": 3, "step": 3, "loss": {}, "seconds": 1.0} | record)
    return folder


def nasbench(folder: Path, test: float, gap: float, skips: int, epoch: int = 3) -> Path:
    """A run with a true accuracy, a gap of beta on every edge, and so many skip connections."""
    picks = {label: "skip_connect" if place < skips else "none" for place, label in enumerate(EDGES)}
    beta = {label: [0.1, 0.1, 0.1, 0.1, 0.1 + gap] for label in EDGES}
    record = {"alpha": beta, "beta": beta, "genotype": {"arch": "NASBench201", "genotype": picks}, "params": 100 * epoch}
    return made_up(folder, RANDOM, epoch=epoch, **record, truth={"cifar10": {"test": test}})


def plan(root: Path) -> Seeds:
    (root / "x_seeds").mkdir(exist_ok=True)
    return Seeds("x.yml", (), "x", root, (0, 1, 2), 1, 3)


def test_a_summary_by_hand(tmp_path: Path) -> None:
    runs = {0: nasbench(tmp_path / "a", 90.0, 0.2, 3), 1: nasbench(tmp_path / "b", 94.0, 0.4, 0)}
    summarise(plan(tmp_path), runs)
    figures = json.loads((tmp_path / "x_seeds" / "seeds.json").read_text())["figures"]
    assert figures["cifar10_test"] == {"mean": 92.0, "std": pytest.approx(statistics.stdev([90, 94])), "min": 90.0, "max": 94.0}
    assert figures["gap_worst"]["mean"] == pytest.approx((0.2 + 0.4) / 2)
    assert figures["share_skip_connect"] == {"mean": 0.25, "std": pytest.approx(0.5 / 2**0.5), "min": 0.0, "max": 0.5}
    report = summarise(plan(tmp_path), {0: runs[0]})
    assert json.loads((tmp_path / "x_seeds" / "seeds.json").read_text())["figures"]["cifar10_test"]["std"] == 0
    assert {"last epoch": "true cifar10 test, %", "mean": "90", "std": "0", "min": "90", "max": "90"} in report.rows


def test_links_of_dlsr_are_no_operations(tmp_path: Path) -> None:
    """The smallest gap is that of the operations, .6 - .3, though the two inputs of a cell are equal."""
    options = load_options(search_options, DLSR, check_files=False)
    choices = find_task(options.task).space(options).choices()
    beta = {label: [0.6, 0.3, *[0.1] * (len(choice.candidates) - 2)] for label, choice in choices.items()}
    beta |= {label: [0.5, 0.5, *[0.0] * (len(beta[label]) - 2)] for label, choice in choices.items() if choice.of == "inputs"}
    assert "inputs3" in beta and len(beta["op1"]) > 2
    picks = {label: choice.candidates[0] for label, choice in choices.items()}
    run = made_up(tmp_path / "run", DLSR, alpha=beta, beta=beta, genotype={"arch": "DLSR", "genotype": picks})
    summarise(plan(tmp_path), {0: run})
    figures = json.loads((tmp_path / "x_seeds" / "seeds.json").read_text())["figures"]
    assert figures["gap_worst"]["mean"] == pytest.approx(0.3)


def test_a_search_that_is_not_at_its_end_does_not_count(tmp_path: Path) -> None:
    for seed, epoch in ((0, 3), (1, 2)):
        nasbench(tmp_path / f"x_seed{seed}", 90.0, 0.2, 0, epoch)
    assert finished(plan(tmp_path)) == {0: tmp_path / "x_seed0"}


@pytest.mark.parametrize(("text", "result"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,2,5-6", [0, 2, 5, 6])])
def test_seeds_are_read(text: str, result: list[int]) -> None:
    assert seeds(text) == result


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "1,1", "3-1", "0-99999999999", "0-9999,20000", "7-10007"])
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
    summary = json.loads((tmp_path / "random_nasbench201_seeds" / "seeds.json").read_text())
    assert "2 of 2 seeds" in printed and len({result["genotype"] for result in summary["seeds"].values()}) == 2
    tests = [result["cifar10_test"] for result in summary["seeds"].values()]
    assert summary["figures"]["cifar10_test"]["mean"] == pytest.approx(statistics.fmean(tests))
    assert all(test in np.round(table()[:, 0, 1].astype(float), 4) for test in tests)


@pytest.mark.slow
def test_a_seed_that_is_done_is_not_made_again(tmp_path: Path) -> None:
    command = tiny(tmp_path)
    run("search", *command, "--seeds", "1")
    before = read_history(tmp_path / "random_nasbench201_seed1")
    run("search", *command, "--seeds", "1")
    assert read_history(tmp_path / "random_nasbench201_seed1") == before
    assert not (tmp_path / "random_nasbench201_seed1_2").exists()


def test_a_seed_that_fails_is_named_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_CHILD", "import sys; print('no such data'); sys.exit(sys.argv[-2] == 'manual_seed=1')")
    lines: list[str] = []
    with pytest.raises(UserError, match="seeds 1 failed"):
        run_seeds(plan(tmp_path), lines.append)
    assert "seed 1 failed: no such data" in lines and {"seed 0 is done", "seed 2 is done"} < set(lines)


def test_a_signal_stops_all_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running one ends by a signal of its own, and the seeds after it are not begun."""
    monkeypatch.setattr(sweep, "_CHILD", "import time; time.sleep(60)")
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if len(lines) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_seeds(plan(tmp_path), say) == 128 + signal.SIGTERM
    assert lines[1:] == ["stopped; the same command goes on with seeds 0, 1, 2."]
