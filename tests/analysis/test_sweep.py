"""Sweeps: their trials, what a halving keeps, what they come to; with toy workers, in this process, in processes and on Ray."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import statistics as standard
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from itertools import product
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import psutil
import pytest
import torch
from rich.console import Console

from sr_nas.analysis import sweep, sweep_results, sweep_settings
from sr_nas.analysis.sweep import make_plan, read_axes, rungs
from sr_nas.analysis.sweep_settings import Done, more_is_better, pick, short_keys, statistics
from sr_nas.cli import parser_of, seeds
from sr_nas.errors import UserError
from sr_nas.export.model import load_structure
from sr_nas.jobs import trials
from sr_nas.jobs.trials import Processes, SweepView, Trial, open_sweep, progress
from sr_nas.options.load import dump_options, load_options
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.run_dir import CHECKPOINT, HISTORY, OPTIONS, PROVENANCE, append_history, load_tensors, read_history
from sr_nas.task import training_options
from tests.campaigns.jobs import unmeasured
from tests.jobs.processes import ENVIRONMENT, TINY_SEARCH, TINY_TRAINING, InThisProcess, command, run


def toy_run(trial: Trial, until: int, psnr: float) -> int:
    """What a training that has come so far leaves: a record for every validation, the last of this PSNR."""
    folder = trial.folder / trial.name
    folder.mkdir(exist_ok=True)
    (folder / OPTIONS).write_text(dump_options(trial.options))
    (folder / CHECKPOINT).touch()
    (folder / PROVENANCE).write_text('[{"processes": 1, "threads": 1}]')
    append_history(folder, {"iteration": until, "loss": 1 / psnr, "val": {"chelsea": {"psnr": psnr, "ssim": 0.9}}})
    return 0


class Toys:
    """Workers whose trials are done at once: ``psnr`` of a trial and an iteration is the result, or what it raises."""

    count = 2

    def __init__(self, psnr: Callable[[Trial, int], float]) -> None:
        self.psnr, self.begun, self.stopped = psnr, list[tuple[str, int]](), False

    def submit(self, trial: Trial, until: int) -> Future[int]:
        self.begun.append((trial.name, until))
        future: Future[int] = Future()
        try:
            future.set_result(toy_run(trial, until, self.psnr(trial, until)))
        except RuntimeError as error:
            with trial.output.open("a") as output:
                output.write(f"first line\n{error}\n")
            future.set_result(1)
        return future

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Trial, int], float]], Toys]:
    """A function that lets sweeps run with toys."""

    def install(psnr: Callable[[Trial, int], float]) -> Toys:
        workers = Toys(psnr)
        monkeypatch.setattr(sweep, "_workers", lambda *_: workers)
        return workers

    monkeypatch.setattr(sweep_settings, "latency_of", lambda networks, rounds: ([5.0] * len(networks), 0.0))
    return install


def words(root: Path, *more: str, file: Path = TINY_TRAINING) -> list[str]:
    return ["-opt", str(file), "--force_yml", f"path:experiments_root={root}", *more]


def rate(trial: Trial) -> float:
    return float(trial.options.train.optim_g.lr)


RATES = "1e-4,2e-4,3e-4,4e-4,5e-4,6e-4,7e-4,8e-4,9e-4"


@pytest.mark.long
def test_a_halving_keeps_the_best_third_by_the_mean_of_their_seeds(
    tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]
) -> None:
    """Against the same by brute force; and the same command again runs nothing and comes to the same."""
    draws = np.random.default_rng(3).normal(30, 1, (9, 2, 28))

    def psnr(trial: Trial, until: int) -> float:
        return float(draws[round(rate(trial) * 1e4) - 1, trial.options.manual_seed, until])

    workers = toys(psnr)
    line = words(tmp_path, "train:total_iter=27", "val:val_freq=3")
    line += ["--grid", f"train:optim_g:lr={RATES}", "--seeds", "0,1", "--halving", "3"]
    assert "after 3 iterations 99% of the moving average is its start" in run("sweep", *line)
    assert "moving average" not in run("sweep", *line, "--force_yml", "train:ema_decay=0.1", "name=other")
    workers.begun = workers.begun[: len(workers.begun) // 2]
    alive, expected = list(range(9)), []
    for until in (3, 9, 27):
        expected += [(f"tiny_train-lr{place + 1}e-4_seed{seed}", until) for place in alive for seed in (0, 1)]
        scores = draws[alive, :, until].mean(1)
        alive = sorted(np.array(alive)[np.argsort(-scores)[: max(len(alive) // 3, 1)]].tolist())
    assert workers.begun == expected

    content = json.loads((tmp_path / "tiny_train_sweep" / "sweep.json").read_text())
    assert [rung["until"] for rung in content["rungs"]] == [3, 9, 27]
    assert content["share_of_all"] == pytest.approx((9 * 3 + 3 * 6 + 1 * 18) / (9 * 27))
    assert [one["train:optim_g:lr"] for one in content["settings"] if one["whole"]] == [f"{alive[0] + 1}e-4"]
    ends = {(row["train:optim_g:lr"], row["seed"]): row["until"] for row in content["trials"]}
    assert ends == {(re.findall("lr(.*)_", name)[0], int(name[-1])): until for name, until in expected}  # the last one counts

    workers.begun.clear()
    assert "18 of 18 were done before" in run("sweep", *line) and workers.begun == []
    assert json.loads((tmp_path / "tiny_train_sweep" / "sweep.json").read_text()) == content


def test_of_losses_less_is_better(tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]) -> None:
    workers = toys(lambda trial, until: 1e5 * rate(trial))
    line = words(tmp_path, "train:total_iter=4", "val:val_freq=1")
    run("sweep", *line, "--grid", "train:optim_g:lr=1e-4,2e-4", "--halving", "2", "--by", "loss_train")
    assert workers.begun[2:] == [("tiny_train-lr2e-4", 4)]  # whose loss, 1 / PSNR, is the least
    assert [more_is_better(name) for name in ("Set5_psnr", "psnr", "loss_task", "params", "cifar10_test")] == [1, 1, 0, 0, 1]


def test_rungs_by_hand() -> None:
    trial = Trial(load_options(training_options, TINY_TRAINING, ["train:total_iter=100", "val:val_freq=5"]))
    assert rungs(trial, 9, 3) == [15, 35, 100]  # 11.1 and 33.3, where a validation is
    assert rungs(trial, 26, 3) == [15, 35, 100] and rungs(trial, 8, 2) == [15, 25, 50, 100]
    with pytest.raises(UserError, match=r"27 settings first after 3.704 of 100 iterations: it needs a val.val_freq of 3 or less"):
        rungs(trial, 27, 3)
    with pytest.raises(UserError, match="--halving 3 needs 3 settings at least, and there are 2"):
        rungs(trial, 2, 3)


def test_the_work_of_a_halving(tmp_path: Path) -> None:
    plan = make_plan(arguments(*words(tmp_path), "--grid", f"train:optim_g:lr={RATES}", "--seeds", "0,1"))
    assert list(sweep._rounds(plan, [3, 9, 27], 3)) == [(18, 3 / 27), (6, 6 / 27), (2, 18 / 27)]
    assert list(sweep._rounds(plan, [27], None)) == [(18, 1.0)]


@pytest.mark.long
def test_a_trial_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]
) -> None:
    broken = [True]

    def psnr(trial: Trial, until: int) -> float:
        if rate(trial) == 2e-4 and broken:
            raise RuntimeError("no such data")
        return 30 + 1e4 * rate(trial)

    workers = toys(psnr)
    line = [*words(tmp_path), "--grid", "train:optim_g:lr=1e-4,2e-4,3e-4"]
    printed = run("sweep", *line, code=1)
    assert "2 of 3: tiny_train-lr2e-4 failed: no such data" in printed and "tiny_train-lr3e-4 is done" in printed
    file = tmp_path / "tiny_train_sweep" / "options" / "tiny_train-lr2e-4.yml"
    assert f"one alone: sr-nas train -opt {file} --auto_resume" in " ".join(printed.split()) and file.is_file()
    content = json.loads((tmp_path / "tiny_train_sweep" / "sweep.json").read_text())
    assert content["failed"] == {"tiny_train-lr2e-4": "no such data"}
    assert [row["chelsea_psnr"] for row in content["trials"]] == pytest.approx([31, 33])
    broken.clear()
    workers.begun.clear()
    run("sweep", *line)
    assert workers.begun == [("tiny_train-lr2e-4", 12)]


def test_a_trial_that_fails_is_named_with_all_of_its_last_error(
    tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]
) -> None:
    errors = ["train: options.yml is old\ntrain: the loss is nan.\nStart from\n  another state.", "no word of the command"]

    def psnr(trial: Trial, until: int) -> float:
        raise RuntimeError(errors[len(workers.begun) - 1])

    workers, root = toys(psnr), tmp_path / "a folder"
    printed = run("sweep", *words(root), "--seeds", "0", code=1)
    assert "failed: the loss is nan. Start from another state; time left" in printed
    assert f"one alone: sr-nas train -opt '{root / 'tiny_train_sweep' / 'options' / 'tiny_train_seed0.yml'}'" in printed
    assert "failed: no word of the command;" in run("sweep", *words(root), "--seeds", "0", code=1)


@pytest.mark.long
def test_a_run_that_is_damaged_stops_no_other(tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]) -> None:
    workers = toys(lambda trial, until: 30.0)
    run("sweep", *words(tmp_path), "--seeds", "0,1")
    histories = [tmp_path / "tiny_train_sweep" / f"tiny_train_seed{seed}" / HISTORY for seed in (0, 1)]
    histories[0].write_text("nonsense\n")
    workers.begun.clear()
    printed = run("sweep", *words(tmp_path), "--seeds", "0-2", code=1)
    assert f"tiny_train_seed0 failed: {histories[0]}, record 1" in printed and workers.begun == [("tiny_train_seed2", 12)]
    assert "1 of 3 were done before" in printed and "2 trials, 1 of 1 settings" in printed
    histories[1].write_text("nonsense\n")
    printed = run("sweep", *words(tmp_path), "--seeds", "0,1", code=1)
    assert f"sweep: {histories[0]}, record 1" in printed and "failed" not in printed and "--force_yml name=..." in printed


def test_an_error_of_the_driver_stops_the_trials_that_run(
    tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(file: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(file))

    workers = toys(lambda trial, until: 30.0)
    monkeypatch.setattr(trials, "write_text", write)
    printed = run("sweep", *words(tmp_path), "--seeds", "0,1", code=1)
    assert workers.stopped and "tiny_train_seed0.yml: No space left on device" in printed


def test_a_record_is_that_of_its_place(tmp_path: Path) -> None:
    (trial,) = make_plan(arguments(*words(tmp_path), "--seeds", "0")).trials
    trial.folder.mkdir()
    assert trial.record(4) is None
    for until in (4, 8, 12):
        toy_run(trial, until, 20.0 + until)
    assert [trial.record(until)[1]["val"]["chelsea"]["psnr"] for until in (4, 8, 12)] == [24, 28, 32]  # type: ignore[index]
    assert trial.record(6) is None
    (search,) = make_plan(arguments(*words(tmp_path, file=TINY_SEARCH), "--seeds", "0")).trials
    search.folder.mkdir()
    toy_run(search, 12, 30.0)
    folder = search.folder / search.name
    (folder / HISTORY).write_text('{"epoch": 2}\n{"epoch": 3}\n')
    assert search.record(2) == (folder, {"epoch": 2}) and search.record(3) is None  # its network is not selected yet
    (folder / "genotype.json").touch()
    assert search.record(3) == (folder, {"epoch": 3})


def test_no_more_trials_begin_than_there_are_workers_and_none_after_a_signal(tmp_path: Path) -> None:
    class Slow(Toys):
        def submit(self, trial: Trial, until: int) -> Future[int]:
            future: Future[int] = Future()
            self.begun.append((trial.name, until))
            threading.Timer(0.05, lambda: future.set_result(toy_run(trial, until, 30.0))).start()
            return future

    plan, workers = make_plan(arguments(*words(tmp_path), "--seeds", "0-3")), Slow(lambda *_: 30.0)
    view, stop = SweepView(Console(quiet=True), 4.0), cast(GracefulShutdown, lambda: bool(workers.begun))
    with open_sweep(plan.folder):
        assert trials.run_trials(plan.trials, 12, 1.0, workers, view, stop) == {}
    assert len(workers.begun) == workers.count == view.done == 2 and workers.stopped


def test_a_process_has_its_share_of_the_cores_and_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments, both = list[Any](), threading.Barrier(2)

    class Process(contextlib.nullcontext[None]):
        def __init__(self, command: list[str], **more: Any) -> None:
            super().__init__()
            environments.append(more["env"])

        def wait(self) -> int:
            return both.wait(20) * 0

    monkeypatch.setattr(trials, "cores", lambda: 9)
    monkeypatch.setattr(trials.subprocess, "Popen", Process)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = make_plan(arguments(*words(tmp_path), "--seeds", "0-3"))
    with open_sweep(plan.folder):
        assert Processes(5, 9, 0).count == 5 and Processes(5, 3, 0).count == 3
        workers = Processes(None, 4, 0)
        for future in [workers.submit(trial, 12) for trial in plan.trials]:
            assert future.result(20) == 0
    assert [sorted(each["CUDA_VISIBLE_DEVICES"] for each in environments[k : k + 2]) for k in (0, 2)] == [["4", "7"]] * 2
    assert {each["OMP_NUM_THREADS"] for each in environments} == {"4"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Processes(None, 99, 0).count == 9


def test_the_time_left_counts_parts_of_trials_since_they_were_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, now = make_plan(arguments(*words(tmp_path), "--seeds", "0-2")), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    (tmp_path / "tiny_train_sweep" / "output").mkdir(parents=True)
    view = SweepView(Console(force_terminal=True, file=io.StringIO()), work=4.0)
    view.begin(4, 1, 1.0)  # which takes no time here
    for moment, first, second, left in (
        (10.0, 6, 3, "unknown"),  # of 12, perhaps in another process
        (40.0, 9, 6, "0:03:20"),  # half a trial in 40 s, and 2.5 are left
    ):
        now = moment
        plan.trials[0].output.write_text(f"iteration {first}/12")
        plan.trials[1].output.write_text(f"iteration {second}/12")
        view.look(plan.trials[:2])
        assert view.time_left == left
    view.end(plan.trials[0], "")
    view.look(plan.trials[1:2])
    assert view.time_left == "0:00:56"  # 1.25 trials in 40 s, 1.75 are left


def test_statistics_by_hand(tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]) -> None:
    values = [30.0, 34.0, 31.0]
    toys(lambda trial, until: values[trial.options.manual_seed])
    printed = run("sweep", *words(tmp_path), "--seeds", "0-2")
    folder = tmp_path / "tiny_train_sweep"
    (setting,) = json.loads((folder / "sweep.json").read_text())["settings"]
    psnr, loss = (setting["quantities"][name] for name in ("chelsea_psnr", "loss_train"))
    assert psnr == pytest.approx({"mean": 95 / 3, "sd": standard.stdev(values), "median": 31, "best": 34, "worst": 30})
    assert (loss["best"], loss["worst"]) == pytest.approx((1 / 34, 1 / 30))
    assert setting["quantities"]["latency_ms"]["mean"] == 5 and setting["quantities"]["params"]["sd"] == 0
    assert "| chelsea PSNR, dB | 31.667 ± 2.1 | 31.000 | 34.000 | 30.000 |" in (folder / "sweep.md").read_text()
    assert "tiny_train_seed0, tiny_train_seed1, tiny_train_seed2: IMDN(conv_3x3, dsconv_3x3, conv_3x3, dil_" in printed
    assert np.isnan(statistics(np.array([3.0]), "params")["sd"])


@pytest.mark.long
def test_a_grid_in_tables_and_pictures(tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]) -> None:
    toys(lambda trial, until: 30 + 1e3 * rate(trial) + trial.options.network_g.nf / 100)
    line = [*words(tmp_path), "--grid", "network_g:nf=16,32", "train:optim_g:lr=1e-4,1e-3"]
    printed = run("sweep", *line)
    folder = tmp_path / "tiny_train_sweep"
    with (folder / "sweep.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["network_g:nf"], row["train:optim_g:lr"]) for row in rows] == list(product(("16", "32"), ("1e-4", "1e-3")))
    assert [float(row["chelsea_psnr"]) for row in rows] == pytest.approx([30.26, 31.16, 30.42, 31.32])
    assert float(rows[2]["params"]) > float(rows[0]["params"]) > 0
    assert "chelsea PSNR, dB" in printed and "31.32" in printed and "±" not in printed
    for name in ("sweep", "front"):
        assert cv2.imread(str(folder / f"{name}.png")).std() > 0
    page = (folder / "report.html").read_text()
    assert "Asked for: 4 trials of 4 settings." in page and page.count('class="panel"') >= 2 and "31.32" in page
    shared = "of all: latency, HR 1280x720, ms: 5.0000; genotype: IMDN(conv_3x3, dsconv_3x3, conv_3x3, dil_dsconv_5x5_bn)"
    assert f"\n- {shared}\n" in (folder / "sweep.md").read_text()
    run("sweep", *words(tmp_path), "--grid", "train:optim_g:lr=1e-4,1e-3")
    assert [file.name for file in folder.glob("*.png")] == ["sweep.png"]  # networks of one cost have no front
    run("sweep", *words(tmp_path), "--seeds", "0")
    assert not list(folder.glob("*.png"))  # they were of other settings
    assert "not all trials have 'loss_distill'" in run("sweep", *line, "--show", "loss_distill", code=1)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--show", "chelsea_pnsr"], "there is no quantity 'chelsea_pnsr' - did you mean 'chelsea_psnr'?"),
        (["--by", "Set14_psnr"], "There are for example: chelsea_psnr, chelsea_ssim, loss_train, params, latency_ms."),
        (["--show", "gap_worst"], "there is no quantity 'gap_worst'"),
        (["--by", "params", "--halving", "2"], "a halving compares scores or losses"),
        (["--by", "psnr", "--force_yml", "datasets:val=null"], "there is no quantity 'psnr'"),
    ],
)
def test_a_quantity_that_no_trial_will_have_is_refused_before_the_first(tmp_path: Path, more: list[str], text: str) -> None:
    assert text in run("sweep", *words(tmp_path), "--grid", "network_g:nf=16,32", *more, code=1)
    assert not list(tmp_path.iterdir())
    searches = words(tmp_path, file=TINY_SEARCH)
    assert "did you mean 'gap_worst'?" in run("sweep", *searches, "--seeds", "0", "--show", "gap_wrost", code=1)


def test_a_halving_judges_by_what_the_runs_have_measured_themselves() -> None:
    scores = {"cifar10_test": 90.0, "loss_train": 2.0, "loss_task": 3.0}
    assert pick(None, scores) == "loss_task" and pick("test", scores) == "cifar10_test"
    scores = {"Set5_ssim": 0.9, "Set5_psnr": 30.0, "Set14_psnr": 28.0, "loss_train": 2.0}
    assert pick(None, scores) == pick("psnr", scores) == "Set5_psnr" and pick("Set14_psnr", scores) == "Set14_psnr"
    assert pick(None, {"loss_distill": 1.0, "loss_train": 2.0}) == "loss_train"
    with pytest.raises(UserError, match="there is no 'Set5_psnt' - did you mean 'Set5_psnr'"):
        pick("Set5_psnt", scores)


def test_long_values_are_broken_in_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = make_plan(arguments(*words(tmp_path), "--seeds", "0")).trials[0]
    values = "[conv_3x3,dsconv_3x3,conv_3x3,conv_3x3]", "b"
    results = [Done((value,), [(trial, 12)]) for value in values]
    monkeypatch.setattr(sweep_settings, "quantities_of", lambda *_: {"Set5_psnr": 30.0})
    (panel,) = sweep_results.sweep_figure(results, ["Set5_psnr"], {"network_g:genotype": values}).axes
    assert panel.get_title(loc="left") == "Set5 PSNR, dB" and results[0].title("loss_train") == "loss"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["[conv_3x3,\ndsconv_3x3,\nconv_3x3,\nconv_3x3]", "b"]


def results_of(
    root: Path, monkeypatch: pytest.MonkeyPatch, numbers: Mapping[tuple[str, ...], list[dict[str, float]]], whole: int = 99
) -> list[Done]:
    """Settings of trainings of these numbers, of which so many have come to their ends."""
    trial = make_plan(arguments(*words(root), "--seeds", "0")).trials[0]
    all_numbers = [run for runs in numbers.values() for run in runs]
    monkeypatch.setattr(sweep_settings, "quantities_of", lambda _, place: all_numbers[place])
    places = iter(range(len(all_numbers)))
    return [
        Done(values, [(trial, next(places)) for _ in runs], number < whole)
        for number, (values, runs) in enumerate(numbers.items())
    ]


@pytest.mark.parametrize(("main", "sign"), [("Set5_psnr", 1), ("loss_train", -1)])
def test_fronts_by_hand(main: str, sign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "searched": (2, 30),
        "front1": (1, 29),
        "front2": (3, 29.5),
        "random0": (2, 29),
        "random1": (1.5, 28),
        "handmade": (4, 28),
    }
    numbers = {
        (name,): [{"macs_hr_1280x720": 1e9 * cost, main: sign * score + shift} for shift in (-0.1, 0.1)]
        for name, (cost, score) in points.items()
    }
    results = results_of(tmp_path, monkeypatch, numbers)
    axes = {"network": list(points)}
    (panel,) = sweep_results.front_figure(results, axes, ["macs_hr_1280x720"], main).axes
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines if line.get_linewidth() == 1.2]
    expected = ([1, 2], [29, 30]), ([1.5, 2], [28, 29]), ([4], [28])
    assert [x for x, _ in lines] == [x for x, _ in expected]
    assert [y for _, y in lines] == [pytest.approx([sign * score for score in y]) for _, y in expected]
    bars = [segment for container in panel.containers for segment in container.lines[2][0].get_segments()]
    assert len(bars) == 6 and all(bar[1][1] - bar[0][1] == pytest.approx(2 * 0.02**0.5) for bar in bars)
    assert panel.get_xlabel() == "MACs, HR 1280x720, G" and len(panel.get_legend().get_texts()) == 3
    results = results_of(tmp_path, monkeypatch, numbers, whole=1)
    (panel,) = sweep_results.front_figure(results, axes, ["macs_hr_1280x720"], main).axes
    assert [list(line.get_xdata()) for line in panel.lines if line.get_linewidth() == 1.2] == [[2], [], []]


def test_cells_of_a_heat_map_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"network_g:nf": ["16", "32"], "train:optim_g:lr": ["1", "2", "3"]}
    numbers = {
        values: [{"params": 1000.0 * (1 + place) + shift} for shift in (-10, 10)]
        for place, values in enumerate(product(*axes.values()))
    }
    (panel,) = sweep_results.sweep_figure(results_of(tmp_path, monkeypatch, numbers), ["params"], axes).axes
    cells = {text.get_position(): text for text in panel.texts}
    assert {place: text.get_text() for place, text in cells.items()} == {
        (column, row): f"{1 + 3 * row + column}.000\n± 0.014" for row, column in product(range(2), range(3))
    }
    assert (cells[0, 0].get_color(), cells[2, 1].get_color()) == ("#fdfdfd", "#111111")  # on dark and on bright
    assert [label.get_text() for label in panel.get_yticklabels()] == ["16", "32"] and panel.get_ylabel() == "nf"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_point_on_the_front_is_beaten_by_none(sign: int) -> None:
    generator = random.Random(sign)
    costs, scores = ([generator.randrange(6) for _ in range(40)] for _ in range(2))
    for one, other in product(range(40), repeat=2):
        as_good = costs[one] <= costs[other] and sign * scores[one] >= sign * scores[other]
        same = (costs[one], scores[one]) == (costs[other], scores[other])
        assert sweep_results._beats(one, other, costs, scores, sign) == (as_good and not same)


def arguments(*texts: str) -> Any:
    return parser_of("sweep").parse_args(list(texts))


def test_points_at_random_are_of_the_grid_and_the_same_every_time(tmp_path: Path) -> None:
    line = [*words(tmp_path), "--grid", f"train:optim_g:lr={RATES}", "val:val_freq=1,2,3,4", "--random"]
    plans = [make_plan(arguments(*line, "7")) for _ in range(2)]
    points = [setting.values for setting in plans[0].settings]
    assert points == [setting.values for setting in plans[1].settings] and len(set(points)) == 7
    assert set(points) < set(product(RATES.split(","), "1234"))
    for setting in plans[0].settings:
        assert (setting.trials[0].options.train.optim_g.lr, setting.trials[0].options.val.val_freq) == (
            float(setting.values[0]),
            int(setting.values[1]),
        )
    assert len(make_plan(arguments(*line, "36")).settings) == 36
    with pytest.raises(UserError, match="--random 37: the grid has 36 points"):
        make_plan(arguments(*line, "37"))


def test_trials_of_values_that_are_long_or_replace_what_is_missing(tmp_path: Path) -> None:
    networks = [[*["dil_dsconv_5x5_bn"] * 3, last] for last in ("conv_3x3", "dsconv_3x3")]
    axis = "network_g:genotype=" + ",".join(f"[{','.join(names)}]" for names in networks)
    line = [*words(tmp_path, "network_g:genotype=gone.json"), "--grid", axis]
    trials = make_plan(arguments(*line)).trials
    assert [trial.options.network_g.genotype for trial in trials] == networks
    assert len({trial.name for trial in trials}) == 2 and all(
        len(trial.name) == len("tiny_train-genotype") + 40 for trial in trials
    )
    assert [trial.name for trial in make_plan(arguments(*line)).trials] == [trial.name for trial in trials]
    with pytest.raises(UserError, match="two trials would have one name"):
        make_plan(arguments(*words(tmp_path), "--grid", "datasets:train:name=a b,a=b"))


def test_a_wrong_option_of_the_last_trial_is_refused_before_the_first(tmp_path: Path) -> None:
    printed = run("sweep", *words(tmp_path), "--grid", "train:total_iter=12,-3", code=1)
    assert "train.total_iter" in printed and not list(tmp_path.iterdir())
    printed = run("sweep", *words(tmp_path), "--grid", "train:total_iter=12,13", "--halving", "2", code=1)
    assert "trials of one length, and these have 12, 13" in printed
    alone = ["--random 3", "--best 3", "--cores 2", "--gpus 0.5", "--address auto --gpus nan", "--address auto --gpus -1"]
    for more in ([], *(["--seeds", "0-1", *each.split()] for each in alone)):
        with pytest.raises(SystemExit):
            run("sweep", *words(tmp_path), *more)


def test_what_is_to_say_on_the_option_file_is_said_once(
    tmp_path: Path, toys: Callable[[Callable[[Trial, int], float]], Toys], caplog: pytest.LogCaptureFixture
) -> None:
    toys(lambda trial, until: 30)
    run("sweep", *words(tmp_path, "train:optim_g={type: SGD, lr: 1e-3}"), "--seeds", "0-2")
    assert [record.message for record in caplog.records if "inherits none of" in record.message] == [
        "--force_yml: train.optim_g is SGD instead of Adam, and inherits none of betas: [0.9, 0.99]"
    ]


def test_axes_are_read_as_they_were_written() -> None:
    axes = read_axes(["search:regularizer:nu=0,.25,1e6", "search:regularizer={type: l2}, none", "a:x='1,2',b"])
    assert axes == {
        "search:regularizer:nu": ["0", ".25", "1e6"],
        "search:regularizer": ["{type: l2}", "none"],
        "a:x": ["'1,2'", "b"],
    }
    assert short_keys(axes) == ["nu", "regularizer", "x"]
    assert short_keys({"search:regularizer": ["1"], "a:regularizer": ["1"]}) == ["search_regularizer", "a_regularizer"]
    for wrong in (["nu"], ["nu="], ["nu=1,1"], ["nu=1", "nu=2"], ["nu=[1"], ["manual_seed=1,2"], ["path:experiments_root=a"]):
        with pytest.raises(UserError):
            read_axes(wrong)


@pytest.mark.parametrize(("text", "result"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,2,5-6", [0, 2, 5, 6])])
def test_seeds_are_read(text: str, result: list[int]) -> None:
    assert seeds(text) == result


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "1,1", "3-1", "0-99999999999", "0-9999,20000", "7-10007"])
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        seeds(text)


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with open_sweep(tmp_path), pytest.raises(UserError, match="another sweep or make runs in"), open_sweep(tmp_path):
        pass
    with open_sweep(tmp_path):
        pass


def test_progress_is_read_from_what_a_trial_prints(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    assert progress(file) == (0.0, "")
    for text, share in (
        ("iteration 1,500/6,000  loss 1\n", 0.25),
        ("epoch 3/8  task 1\n", 3 / 8),
        ("epoch 4/8  step 50/100  task 1\nwhatever\n", 3.5 / 8),
    ):
        with file.open("a") as stream:
            stream.write("x" * 3000 + text)
        assert progress(file)[0] == pytest.approx(share)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search with a budget."""
    root = tmp_path_factory.mktemp("searched")
    words = ["search:epochs=1", "search:budget:macs_hr=2.2G", "search:selection={type: random, networks: 9, batches: 1}"]
    run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={root}", *words)
    return root / "tiny"


@pytest.mark.slow
def test_networks_of_a_search_and_random_ones_of_their_costs(tmp_path: Path, searched: Path) -> None:
    line = [*words(tmp_path), "--front", str(searched), "--best", "3", "--random", "4"]
    plan = make_plan(arguments(*line))
    content = json.loads((searched / "front.json").read_text())
    rows = sorted((row for row in content["networks"] if row["macs_hr"] <= 2.2e9), key=lambda row: -row["log_beta"])
    selected = json.loads((searched / "genotype.json").read_text())["genotype"]
    front = [row["genotype"]["genotype"] for row in rows if row["genotype"]["genotype"] != selected]
    genotypes = [setting.trials[0].options.network_g.genotype for setting in plan.settings]
    assert genotypes[:3] == [list(genotype.values()) for genotype in (selected, *front[:2])]
    names = ["searched", "front1", "front2", *(f"random{number}" for number in range(4)), "handmade"]
    assert [setting.values[0] for setting in plan.settings] == names
    assert [setting.trials[0].name for setting in plan.settings] == [f"tiny-tiny_train-{name}" for name in names]
    assert len({str(genotype) for genotype in genotypes[:-1]}) == 7 and genotypes[-1] == ["conv_3x3"] * 4
    assert "--front trains networks" in run("sweep", "-opt", TINY_SEARCH, "--front", searched, code=1)
    assert "--grid network_g:nf: with --front the network" in run("sweep", *line, "--grid", "network_g:nf=16,32", code=1)
    more = ["--force_yml", "scale=3", "datasets:train:gt_size=24"]
    assert "scale is 3, and 2 in the search" in run("sweep", *line, *more, code=1)
    assert "there is no front.json" in run("sweep", *words(tmp_path), "--front", tmp_path, code=1)
    shutil.copytree(searched, copy := tmp_path / "a copy")
    (copy / "x").mkdir()
    assert make_plan(arguments(*words(tmp_path), "--front", str(copy / "x" / ".."))).folder.name == "a_copy-tiny_train_sweep"
    (copy / "front.json").write_text(json.dumps(content | {"networks": [{}]}))
    assert "front.json is damaged" in run("sweep", *words(tmp_path), "--front", copy, code=1)


@pytest.mark.long
def test_a_search_is_compared_with_chance(
    tmp_path: Path, searched: Path, toys: Callable[[Callable[[Trial, int], float]], Toys]
) -> None:
    """Pairs by hand; and the numbers of networks that the trainings had."""
    gain = {"searched": 0.3, "random0": 0.1, "random1": 0.4, "handmade": 0.0}

    def psnr(trial: Trial, until: int) -> float:
        return 30 + gain[trial.name.split("-")[2].split("_")[0]] + 0.01 * trial.options.manual_seed

    toys(psnr)
    line = [*words(tmp_path), "--front", str(searched), "--best", "1", "--random", "2", "--seeds", "3,5"]
    printed = run("sweep", *line)
    folder = tmp_path / "tiny-tiny_train_sweep"
    content = json.loads((folder / "sweep.json").read_text())
    result = content["comparison"]["chelsea_psnr"]
    assert (result["rank"], result["of"], result["best"]) == (2, 3, "random1")
    differences = [result[f"minus_{name}"]["mean"] for name in ("random", "best", "handmade")]
    assert differences == pytest.approx([0.05, -0.1, 0.3]) and result["minus_random"]["sd"] == pytest.approx(0, abs=1e-9)
    assert "random networks: 2 of macs_hr" in printed and "hand-made network: the published genotype at nf" in printed
    assert "searched minus" in printed and "| chelsea PSNR, dB | +0.050" in (folder / "sweep.md").read_text()
    for row in content["trials"]:
        network = load_structure(folder / "options" / f"{row['trial']}.yml")
        assert row["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert cv2.imread(str(folder / "front.png")).std() > 0


def result_of(folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """What must be the same of two runs, to the bit."""
    state = {name: value for name, value in load_tensors(folder / CHECKPOINT).items() if name not in ("seconds", "random")}
    return unmeasured(read_history(folder)), state


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.long
def test_a_trial_in_rungs_is_the_run_by_hand_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "Processes", lambda *_: InThisProcess())
    line = words(tmp_path, "val:val_freq=1", "train:total_iter=4")
    run("sweep", *line, "--seeds", "0", "--grid", "train:optim_g:lr=1e-3,1", "--halving", "2")
    run("train", *line, "train:optim_g:lr=1e-3", "manual_seed=0", "name=by_hand")
    assert same(result_of(tmp_path / "tiny_train_sweep" / "tiny_train-lr1e-3_seed0"), result_of(tmp_path / "by_hand"))
    content = json.loads((tmp_path / "tiny_train_sweep" / "sweep.json").read_text())
    assert [list(rung["scores"]) for rung in content["rungs"]][1] == ["tiny_train-lr1e-3_seed0"]


@pytest.mark.slow
def test_a_search_that_stops_at_an_epoch_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    root = f"path:experiments_root={tmp_path}"
    for _ in range(2):
        run("search", "-opt", TINY_SEARCH, "--until", "1", "--auto_resume", "--force_yml", root, "name=parts")
    assert read_history(tmp_path / "parts")[-1]["epoch"] == 1 and not (tmp_path / "parts" / "genotype.json").exists()
    run("search", "-opt", TINY_SEARCH, "--auto_resume", "--force_yml", root, "name=parts")
    run("search", "-opt", TINY_SEARCH, "--force_yml", root, "name=whole")
    assert same(result_of(tmp_path / "parts"), result_of(tmp_path / "whole"))


def test_until_is_a_place_and_no_length(tmp_path: Path) -> None:
    line = [*words(tmp_path, "name=x"), "--auto_resume", "--until"]
    run("train", *line, "5")
    before = result_of(tmp_path / "x")
    for until in ("5", "3"):
        assert "stopped at iteration 5" in run("train", *line, until)
        assert same(result_of(tmp_path / "x"), before)


def test_the_estimate_names_every_trial_and_begins_none(tmp_path: Path) -> None:
    printed = run("sweep", *words(tmp_path), "--grid", "train:optim_g:lr=1e-4,1e-3", "--seeds", "0-1", "--jobs", "2", "--dry")
    assert all(f"tiny_train-lr{lr}_seed{seed}" in printed for lr in ("1e-4", "1e-3") for seed in (0, 1))
    assert "4 trials:" in printed and "by 2 at a time" in printed and not list(tmp_path.iterdir())
    assert "at a time" not in run("sweep", *words(tmp_path), "--seeds", "0", "--address", "auto", "--dry")


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search run by hand."""
    root = tmp_path_factory.mktemp("by_hand")
    words_of = command(
        "search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={root}", "manual_seed=1", "search:epochs=80"
    )
    subprocess.run(words_of, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return root / "tiny"


def began(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until both trials of a sweep have histories of some epochs."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        files = [folder / f"tiny_seed{seed}" / HISTORY for seed in (0, 1)]
        if all(file.is_file() and file.read_bytes().count(b"\n") > 5 for file in files):
            return
        time.sleep(0.05)
    raise AssertionError("the trials did not begin")


def sweep_of_two(root: Path, *more: str) -> list[str]:
    return command("sweep", *words(root, "search:epochs=80", file=TINY_SEARCH), "--seeds", "0,1", *more)


def descendants(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children(recursive=True):
        if any("sweep.lock" in file.path for file in child.open_files()):
            yield child


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_and_its_trials_save_themselves(tmp_path: Path, by_hand: Path) -> None:
    folder = tmp_path / "tiny_sweep"
    process = subprocess.Popen(sweep_of_two(tmp_path), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    began(folder, process)
    trials = list(descendants(process))
    process.kill()
    process.wait()
    psutil.wait_procs(trials, timeout=60)
    assert all("saved in" in (folder / "output" / f"tiny_seed{seed}.txt").read_text() for seed in (0, 1))
    subprocess.run(sweep_of_two(tmp_path), check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert same(result_of(folder / "tiny_seed1"), result_of(by_hand)) and not list(folder.glob("tiny_seed?_2"))


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--address", "local"]])
def test_a_signal_saves_all_trials(tmp_path: Path, by_hand: Path, more: list[str]) -> None:
    if more:
        pytest.importorskip("ray")
    process = subprocess.Popen(sweep_of_two(tmp_path, *more), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    began(tmp_path / "tiny_sweep", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert len(read_history(tmp_path / "tiny_sweep" / "tiny_seed1")) < 81
    subprocess.run(sweep_of_two(tmp_path), check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert same(result_of(tmp_path / "tiny_sweep" / "tiny_seed1"), result_of(by_hand))


@pytest.mark.slow
def test_on_ray_a_worker_that_is_killed_goes_on(tmp_path: Path, by_hand: Path) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "tiny_sweep"
    process = subprocess.Popen(sweep_of_two(tmp_path, "--address", "local"), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    began(folder, process)
    # Ray's processes are nobody's children once they run; the log of a run is open in its worker alone.
    (worker,) = [one for one in psutil.process_iter() if "ray::" in one.name() and holds(one, folder / "tiny_seed1")]
    worker.send_signal(signal.SIGKILL)
    assert process.wait(200) == 0
    assert len(json.loads((folder / "tiny_seed1" / PROVENANCE).read_text())) == 2, "it was not resumed"
    assert same(result_of(folder / "tiny_seed1"), result_of(by_hand)) and not list(folder.glob("tiny_seed?_2"))


def holds(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(file.path.startswith(str(folder)) for file in process.open_files())
    except psutil.Error:
        return False


@pytest.mark.slow
def test_without_a_shared_disk_the_folders_come_back(tmp_path: Path, by_hand: Path) -> None:
    ray = pytest.importorskip("ray")
    from sr_nas.jobs.on_ray import RayWorkers

    args = arguments(*words(tmp_path, "search:epochs=80", file=TINY_SEARCH), "--seeds", "1")
    (trial,) = make_plan(args).trials
    with open_sweep(trial.folder):
        workers = RayWorkers("local", trial.folder, None, shared=False)
        try:
            for until in (10, 80):  # the second goes on from what came back
                assert workers.submit(trial, until).result(200) == 0
                assert read_history(trial.folder / "tiny_seed1")[-1]["epoch"] == until
        finally:
            ray.shutdown()
    assert same(result_of(trial.folder / "tiny_seed1"), result_of(by_hand))
    assert not os.path.exists(trial.file)  # the worker wrote it where it ran
