"""Whole searches: what they leave behind, and that stopping them by any means changes nothing."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from sr_nas.genotype import genotype_from
from sr_nas.images.files import write_image
from sr_nas.jobs.run import Run
from sr_nas.jobs.search import outcome
from sr_nas.networks.imdn import IMDN
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.runs.files import write_json
from sr_nas.runs.run_dir import append_history, load_tensors, read_history
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING, command, interrupt, run

# Long enough that a signal sent after the first epoch arrives before the last.
LONG = ("search:epochs=12", "search:steps_per_epoch=8", "logger:save_checkpoint_freq=3")
LONG = (*LONG, "search:budget:macs_hr=1.7G", "search:budget:params=8K")


def search(root: Path, *overrides: str, resume: bool = False, code: int = 0) -> str:
    words = ["--force_yml", f"path:experiments_root={root}", *overrides, *(["--auto_resume"] if resume else [])]
    return run("search", "-opt", TINY_SEARCH, *words, code=code)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("finished")
    return root / "tiny", search(root, *LONG)


def everything(folder: Path) -> dict[str, Any]:
    """What two equal runs must share to the bit."""
    state = load_tensors(folder / "checkpoint.pt")
    # Seconds and memory are the machine's, not the search's.
    del state["seconds"]
    history = [{k: v for k, v in record.items() if k not in ("seconds", "memory_bytes")} for record in read_history(folder)]
    return {"state": state, "history": history, "genotype": (folder / "genotype.json").read_text()}


def assert_equal(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def test_everything_promised_is_there(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    names = {
        "options.yml",
        "run.json",
        "log.txt",
        "history.jsonl",
        "checkpoint.pt",
        "genotype.json",
        "network_g.yml",
        "inherited.safetensors",
        "front.json",
    }
    assert {path.name for path in folder.iterdir()} == names
    start = json.loads((folder / "run.json").read_text())[0]
    assert start["seed"] == 0
    assert start["packages"]["torch"] == torch.__version__.split("+")[0]
    assert "spread within a choice" in printed
    assert str(folder) in printed


def test_the_history_holds_every_epoch(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    history = read_history(folder)
    assert [record["epoch"] for record in history] == list(range(13))
    assert [record["lambda"] for record in history] == pytest.approx([0.2 * epoch for epoch in range(13)])
    for record in history[1:]:
        loss = record["loss"]
        assert loss["total"] == pytest.approx(loss["task"] + loss["regularizer"] + loss["cost"], abs=1e-5)
        for label, alpha in record["alpha"].items():
            assert record["beta"][label] == pytest.approx(torch.tensor(alpha).softmax(0).tolist(), abs=1e-6)
        assert record["seconds"] > 0
        assert record["memory_bytes"] > 10**7
    last = history[-1]
    derived = IMDN(2, 16, 1, last["genotype"])
    assert last["params"] == sum(parameter.numel() for parameter in derived.parameters())
    assert f"{last['params']:,} parameters" in printed


def test_the_option_block_builds_the_genotype(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    block = yaml.safe_load((folder / "network_g.yml").read_text())
    genotype = json.loads((folder / "genotype.json").read_text())
    assert block["scale"] == 2
    assert genotype["network_g"] == {"type": "IMDN", "nf": 16, "num_blocks": 1}
    assert block["network_g"] | {"genotype": None} == {"type": "IMDN", "nf": 16, "num_blocks": 1, "genotype": None}
    assert genotype_from(block["network_g"]["genotype"], "IMDN", IMDN.choices()) == genotype_from(
        genotype, "IMDN", IMDN.choices()
    )
    network = IMDN(2, 16, 1, genotype)
    assert not network.load_state_dict(load_file(folder / "inherited.safetensors"), strict=False).unexpected_keys


def test_a_lead_within_a_draw_is_called_one(tmp_path: Path) -> None:
    choices = IMDN.choices()
    label, *others = choices
    weights = {name: [0.5, 0.1, 0.1, *[0.3 / 9] * 9] for name in others} | {label: [0.085, 0.084, *[0.831 / 10] * 10]}
    picks = {name: choice.candidates[0] for name, choice in choices.items()}
    record = {"alpha": weights, "beta": weights, "genotype": {"arch": "IMDN", "genotype": picks}, "params": 1, "seconds": 1.0}
    for _ in range(2):
        append_history(tmp_path, record)
    lines = outcome(tmp_path, choices)
    assert [line.endswith("+0.001  0.083  a draw") for line in lines[1:5]] == [name == label for name in choices]
    assert "undecided 1 of 4 choices lead by less than 5% of an even draw" in lines


@pytest.mark.slow
def test_one_seed_one_result_another_seed_another(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    search(tmp_path, *LONG)
    assert_equal(everything(folder), everything(tmp_path / "tiny"))
    search(tmp_path, *LONG, "manual_seed=1", "name=other")
    assert everything(tmp_path / "other")["history"][-1]["alpha"] != everything(folder)["history"][-1]["alpha"]


@pytest.mark.long
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT))],
    ids=lambda number: number.name,
)
def test_stopped_and_resumed_it_is_the_straight_run_to_the_bit(
    number: signal.Signals, finished: tuple[Path, str], tmp_path: Path
) -> None:
    words = command("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path}", *LONG)
    code = interrupt(words, tmp_path / "tiny" / "history.jsonl", 3, number)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "tiny" / "genotype.json").exists()
    printed = search(tmp_path, *LONG, resume=True)
    assert "going on in" in printed
    assert_equal(everything(finished[0]), everything(tmp_path / "tiny"))
    starts = json.loads((tmp_path / "tiny" / "run.json").read_text())
    assert starts[0]["command"] == words[1:]
    assert len(starts) == 2
    assert not [path for path in (tmp_path / "tiny").iterdir() if path.name.startswith(".")]


def threads_of(folder: Path) -> list[int]:
    return [start["threads"] for start in json.loads((folder / "run.json").read_text())]


@pytest.mark.slow
def test_auto_measures_threads_and_leaves_the_run_of_that_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relaxation and schedule are those with the most state."""
    words = ("search:relaxation=gumbel_softmax", "train:scheduler=CosineAnnealingLR", "search:steps_per_epoch=1")
    search(tmp_path, *words, "name=fixed")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for room in ("runs.device", "jobs.run"):
        monkeypatch.setattr(f"sr_nas.{room}.cores", lambda: 2)
    medians = iter([1.0, 0.95])
    monkeypatch.setattr("sr_nas.runs.device.median", lambda times: next(medians))
    printed = search(tmp_path, *words, "num_threads=auto")
    assert "num_threads auto is 1 here: a step takes 1 s with 1, 0.95 s with 2" in printed and "(threads: 1)" in printed
    assert threads_of(tmp_path / "tiny") == threads_of(tmp_path / "fixed") == [1]
    assert_equal(everything(tmp_path / "tiny"), everything(tmp_path / "fixed"))


class Loop:
    """Stands for a searcher; its step draws random numbers."""

    steps = 0

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def step(self) -> None:
        self.steps += int(torch.rand(3).sum() < 3)


def test_measuring_threads_draws_no_number_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("sr_nas.jobs.run.cores", lambda: 2)
    loop, random, threads = Loop(), torch.get_rng_state(), torch.get_num_threads()
    options = load_options(SearchOptions, TINY_SEARCH, ["num_threads=auto"])
    new = Run(options, None, [])
    new.take_threads(True, loop, loop.step)
    assert "a step takes" in new.notes[0]
    assert torch.equal(torch.get_rng_state(), random) and loop.steps == 0
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("search:epochs=1", "search:steps_per_epoch=1")
    search(tmp_path, *short, "num_threads=2")
    printed = search(tmp_path, *short, "num_threads=1", resume=True)
    assert "going on in" in printed and "(threads: 2)" in printed
    assert "num_threads 1 is for new runs: this one keeps its threads, on which results depend" in printed
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr("sr_nas.jobs.run.cores", lambda: 1)
    printed = search(tmp_path, *short, "num_threads=auto", resume=True)
    assert "OMP_NUM_THREADS 3 is for new runs" in printed
    assert "2 threads are more than the cores that this process may use, 1" in printed
    assert threads_of(tmp_path / "tiny") == [2, 2, 2]
    assert "num_threads auto is 3 here, as OMP_NUM_THREADS says" in search(tmp_path, *short, "num_threads=auto", "name=new")
    assert threads_of(tmp_path / "new") == [3]
    for wrong in (0, 100_000, "many", None):
        (tmp_path / "new" / "run.json").write_text(json.dumps([{"processes": 1, "threads": wrong}]))
        assert "run.json is damaged" in search(tmp_path, *short, "num_threads=auto", "name=new", resume=True, code=1)


@pytest.mark.long
def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    search(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "tiny").rglob("*") if path.is_file()}
    assert str(tmp_path / "tiny_2") in search(tmp_path)
    assert all(path.read_bytes() == content for path, content in before.items())
    text = search(tmp_path, "search:alpha:optim:lr=0.5", resume=True, code=1)
    assert "was made with other options" in text
    assert "search.alpha.optim.lr: 0.01 -> 0.5" in text


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    search(tmp_path)
    state, history = (tmp_path / "tiny" / "checkpoint.pt").read_bytes(), (tmp_path / "tiny" / "history.jsonl").read_text()
    for changed in ({"seconds": None}, {"seconds": "x"}, {"step": 10**9}, {"step": -1}, {"sums": {"train": []}}):
        torch.save(torch.load(io.BytesIO(state), weights_only=True) | changed, tmp_path / "tiny" / "checkpoint.pt")
        text = search(tmp_path, resume=True, code=1)
        assert "checkpoint.pt is not of this run (ValueError: " in text and "Start a new run without --auto_resume." in text
    (tmp_path / "tiny" / "checkpoint.pt").write_bytes(state)
    for lines in (history.splitlines(True)[1:], history.splitlines(True)[::-1]):
        (tmp_path / "tiny" / "history.jsonl").write_text("".join(lines))
        assert "record 1 should be that of step 0" in search(tmp_path, resume=True, code=1)
    (tmp_path / "tiny" / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    text = search(tmp_path, resume=True, code=1)
    assert "checkpoint.pt" in text and "Start a new run without --auto_resume." in text
    (tmp_path / "tiny" / "checkpoint.pt").unlink()
    text = search(tmp_path, "search:epochs=1", resume=True)
    assert f"{tmp_path / 'tiny'} has no checkpoint.pt, so that run cannot go on\nsearching in {tmp_path / 'tiny_2'} " in text


@pytest.mark.slow
def test_other_images_are_refused_in_a_search_and_noted_in_a_training(tmp_path: Path) -> None:
    data = tmp_path / "images"
    data.mkdir()
    for name in ("a", "b", "c", "d"):
        write_image(data / f"{name}.png", np.full((20, 20, 3), 128, np.uint8))
    folder = f"datasets:train={{type: folder, dataroot_gt: {data}, gt_size: 16, batch_size_per_gpu: 2}}"
    search(tmp_path, folder)
    words = ["--force_yml", f"path:experiments_root={tmp_path}", folder, "train:total_iter=1"]
    run("train", "-opt", TINY_TRAINING, *words)
    images = json.loads((tmp_path / "tiny_train" / "run.json").read_text())[0]["images"]
    assert images.keys() == {
        "a",
        "b",
        "c",
        "d",
        "chelsea: chelsea",
    }
    noted = json.loads((tmp_path / "tiny" / "run.json").read_text())
    assert noted[0]["images"] == {name: (data / f"{name}.png").stat().st_size for name in ("a", "b", "c", "d")}
    names = ["a", os.fsdecode(b"b\xff"), "\u65e5"]
    write_json(tmp_path / "names.json", names)
    assert json.loads((tmp_path / "names.json").read_bytes()) == names
    before = (tmp_path / "tiny" / "run.json").read_bytes()
    (data / "b.png").rename(data / "new.png")
    (data / "c.png").unlink()
    text = search(tmp_path, folder, resume=True, code=1)
    assert "was begun with other images: new is new; missing are b, c. The halves of a search" in text
    assert (tmp_path / "tiny" / "run.json").read_bytes() == before
    text = run("train", "-opt", TINY_TRAINING, *words, "--auto_resume")
    assert "was begun with other images: new is new; missing are b, c\n" in text and "going on in" in text
    (data / "new.png").rename(data / "b.png")
    write_image(data / "c.png", np.full((20, 20, 3), 128, np.uint8))
    assert "going on in" in search(tmp_path, folder, resume=True)
    sizes = noted[0]["images"]
    odd = os.fsdecode(b"\xff")
    noted[0]["images"] |= {odd: 3}
    write_json(tmp_path / "tiny" / "run.json", noted)
    assert "was begun with other images: missing is " in search(tmp_path, folder, resume=True, code=1)
    del noted[0]["images"][odd]
    write_json(tmp_path / "tiny" / "run.json", noted)
    noise, flat = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8), (data / "c.png").read_bytes()
    write_image(data / "c.png", noise[0])
    text = search(tmp_path, folder, resume=True, code=1)
    assert "was begun with other images: of another size in bytes is c. The halves" in text
    (data / "c.png").write_bytes(flat)
    noted[0]["images"] = {name: sizes[name] for name in ("b", "a", "c", "d")}
    (tmp_path / "tiny" / "run.json").write_text(json.dumps(noted))
    assert "was begun with other images: their order. " in search(tmp_path, folder, resume=True, code=1)
    noted[0]["images"] = "abcd"
    (tmp_path / "tiny" / "run.json").write_text(json.dumps(noted))
    assert "run.json is damaged" in search(tmp_path, folder, resume=True, code=1)
    del noted[0]["images"]
    (tmp_path / "tiny" / "run.json").write_text(json.dumps(noted))
    assert "going on in" in search(tmp_path, folder, resume=True)


def test_exhausted_memory_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr("sr_nas.search.searcher.Searcher.weight_step", exhausted)
    text = search(tmp_path, "datasets:train:num_worker_per_gpu=1", code=1)
    assert "the memory does not suffice. To take less, set network_g.checkpointing to true" in text
    assert "set datasets.train.num_worker_per_gpu (now 1) to 0, lower datasets.train.batch_size_per_gpu (now 2)" in text
    assert f"The last checkpoint is {tmp_path / 'tiny' / 'checkpoint.pt'}; --auto_resume goes on from it." in text


@pytest.mark.slow
def test_a_heavy_flops_weight_leaves_the_cheapest_network(tmp_path: Path) -> None:
    search(tmp_path, "name=free", "search:flops_weight=0")
    search(tmp_path, "name=costly", "search:flops_weight=1e4", "search:alpha:optim:lr=0.1")
    free, costly = (read_history(tmp_path / name)[-1] for name in ("free", "costly"))
    assert set(costly["genotype"]["genotype"].values()) == {"dsconv_3x3"}
    assert costly["macs_lr_1280x720"] < free["macs_lr_1280x720"]
    assert free["loss"]["cost"] == 0
    assert costly["loss"]["cost"] > 0


@pytest.mark.slow
def test_one_run_is_not_taken_up_twice_at_once(tmp_path: Path) -> None:
    search(tmp_path)
    fcntl = pytest.importorskip("fcntl", reason="no such lock on Windows")
    with (tmp_path / "tiny" / "log.txt").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is running in" in search(tmp_path, resume=True, code=1)
    assert "going on in" in search(tmp_path, resume=True)


@pytest.mark.slow
def test_a_failed_run_does_not_hide_the_one_to_go_on_with(tmp_path: Path) -> None:
    search(tmp_path)
    assert "too few for patches of gt_size 1200" in search(tmp_path, "datasets:train:gt_size=1200", code=1)
    assert f"going on in {tmp_path / 'tiny'} " in search(tmp_path, resume=True)


def test_anchors_are_overridden_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "anchored.yml"
    file.write_text(
        f"_base_: {TINY_SEARCH}\ntrain: {{optim_g: &o {{type: SGD, lr: 1e-3}}}}\n"
        "search: {alpha: {optim: {<<: *o, momentum: 0.5}}}\nlogger:\n"
    )
    options = load_options(SearchOptions, file, ["search:alpha:optim:lr=0.5"])
    assert options.train.optim_g.arguments()["lr"] == 1e-3
    assert options.search.alpha.optim.arguments() == {"lr": 0.5, "weight_decay": 0.0, "momentum": 0.5, "nesterov": False}
    assert options.logger.print_freq == 100
