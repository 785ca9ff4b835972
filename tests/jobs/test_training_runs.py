"""Whole trainings, from a genotype to a picture; stopped and resumed like a search."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import sr_nas
from sr_nas.data.loader import PatchDataset
from sr_nas.data.sources import sample
from sr_nas.inference.images import upscaler
from sr_nas.metrics import evaluate_set
from sr_nas.networks.imdn import IMDN
from sr_nas.runs.run_dir import load_tensors, read_history
from sr_nas.trainer import Trainer
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING, command, interrupt, run
from tests.jobs.test_search_runs import assert_equal

LONG = ("train:total_iter=40", "val:val_freq=10", "logger:save_checkpoint_freq=7")


def train(root: Path, *overrides: str, resume: bool = False, code: int = 0) -> str:
    words = ["--force_yml", f"path:experiments_root={root}", *overrides, *(["--auto_resume"] if resume else [])]
    return run("train", "-opt", TINY_TRAINING, *words, code=code)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    train(root, *LONG)
    return root / "tiny_train"


def test_best_and_last_are_kept_and_say_what_they_are(trained: Path) -> None:
    history = read_history(trained)
    assert [record["iteration"] for record in history] == [10, 20, 30, 40]
    best = max(history, key=lambda record: record["val"]["chelsea"]["psnr"])
    network = sr_nas.load_network(trained / "best.safetensors")
    assert isinstance(network, IMDN)
    assert network.genotype.names == ["conv_3x3", "dsconv_3x3", "conv_3x3", "dil_dsconv_5x5_bn"]
    scores = evaluate_set(upscaler(network, device="cpu"), sample(held_out=True, scale=2), 2)
    assert scores["psnr"] == pytest.approx(best["val"]["chelsea"]["psnr"], abs=1e-4)
    with Image.open(trained / "comparison.png") as picture:
        assert picture.width > 3 * 64


def test_the_moving_average_is_what_is_kept(trained: Path) -> None:
    state = load_tensors(trained / "checkpoint.pt")
    last = sr_nas.load_network(trained / "last.safetensors").state_dict()
    averaged = {name.removeprefix("module."): tensor for name, tensor in state["ema"].items() if name.startswith("module.")}
    assert all(torch.equal(last[name], tensor) for name, tensor in averaged.items())
    assert any(not torch.equal(last[name], tensor) for name, tensor in state["network"].items())


@pytest.mark.long
def test_killed_and_resumed_it_is_the_straight_run_to_the_bit(trained: Path, tmp_path: Path) -> None:
    words = command("train", "-opt", TINY_TRAINING, "--force_yml", f"path:experiments_root={tmp_path}", *LONG)
    assert interrupt(words, tmp_path / "tiny_train" / "history.jsonl", 1, signal.SIGKILL) == -9
    assert "going on in" in train(tmp_path, *LONG, resume=True)
    assert_equal(load_tensors(trained / "checkpoint.pt"), load_tensors(tmp_path / "tiny_train" / "checkpoint.pt"))
    for record, again in zip(read_history(trained), read_history(tmp_path / "tiny_train"), strict=True):
        assert record | {"memory_bytes": 0} == again | {"memory_bytes": 0}


def test_with_soap_it_goes_on_to_the_bit_too(tmp_path: Path) -> None:
    words = ("train:optim_g={type: SOAP}", "train:total_iter=14", "datasets:val=null")
    train(tmp_path / "straight", *words)
    run("train", "-opt", TINY_TRAINING, "--until", 7, "--force_yml", f"path:experiments_root={tmp_path}", *words)
    assert "going on in" in train(tmp_path, *words, resume=True)
    straight, stopped = (load_tensors(folder / "tiny_train" / "checkpoint.pt") for folder in (tmp_path / "straight", tmp_path))
    assert_equal(straight, stopped)


@pytest.mark.long
def test_auto_measures_threads_and_leaves_the_training_of_that_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train:total_iter=2", "datasets:val=null", "datasets:train:num_worker_per_gpu=1")
    train(tmp_path, *words, "name=fixed", "num_threads=2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for room in ("runs.device", "jobs.run"):
        monkeypatch.setattr(f"sr_nas.{room}.cores", lambda: 2)
    medians = iter([2.0, 1.0])
    monkeypatch.setattr("sr_nas.runs.device.median", lambda times: next(medians))
    assert "num_threads auto is 2 here: a step takes 2 s with 1, 1 s with 2" in train(tmp_path, *words, "num_threads=auto")
    auto, fixed = (load_tensors(tmp_path / name / "checkpoint.pt") for name in ("tiny_train", "fixed"))
    assert_equal(auto, fixed)


def test_export_then_use_without_any_option_file(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    run("export", "--run", trained, "-o", file)
    exported, best = sr_nas.load_network(file), sr_nas.load_network(trained / "best.safetensors")
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(exported(x), best(x))
    assert "exists" in run("export", "--run", trained, "-o", file, code=1)
    run("export", "--run", trained, "-o", tmp_path / "genotype.json")
    assert json.loads((tmp_path / "genotype.json").read_text())["genotype"]["conv4"] == "dil_dsconv_5x5_bn"
    assert "must end in one of .safetensors" in run("export", "--run", trained, "-o", tmp_path / "net.zip", code=1)


@pytest.mark.long
def test_a_start_from_weights(trained: Path, tmp_path: Path) -> None:
    start = f"path:pretrain_network_g={trained / 'best.safetensors'}"
    train(tmp_path, start, "train:total_iter=1", "train:optim_g:lr=1e-12", "name=warm")
    best = sr_nas.load_network(trained / "best.safetensors")
    warm = sr_nas.load_network(tmp_path / "warm" / "last.safetensors")
    assert torch.allclose(best.get_parameter("head.weight"), warm.get_parameter("head.weight"), atol=1e-9)
    text = train(tmp_path, start, "network_g:num_blocks=2", code=1)
    assert "does not fit the network" in text
    assert "strict_load_g" in text
    train(tmp_path, start, "network_g:num_blocks=2", "path:strict_load_g=false", "train:total_iter=1", "name=loose")
    loose = sr_nas.load_network(tmp_path / "loose" / "last.safetensors").state_dict()
    fitting = sum(name in best.state_dict() and best.state_dict()[name].shape == tensor.shape for name, tensor in loose.items())
    assert 0 < fitting < len(loose)
    for name, found, total in (("warm", len(best.state_dict()), len(best.state_dict())), ("loose", fitting, len(loose))):
        log = (tmp_path / name / "log.txt").read_text()
        assert log.count(f"starting from {trained / 'best.safetensors'}: {found} of {total} tensors fit") == 1
    train(tmp_path, start, "train:total_iter=1", "train:optim_g:lr=1e-12", "name=warm", resume=True)
    assert (tmp_path / "warm" / "log.txt").read_text().count("starting from") == 1, "a resumed run starts from its checkpoint"


def test_a_start_from_a_network_that_ships(tmp_path: Path) -> None:
    shipped = sr_nas.load_network("fast_x2")
    architecture = f"network_g={{type: PLAIN, num_blocks: 6, genotype: [{', '.join(shipped.genotype.names)}]}}"
    changed = [architecture, "train:start=random"]
    train(tmp_path, "path:pretrain_network_g=fast_x2", *changed, "train:total_iter=1", "train:optim_g:lr=1e-12", "name=warm")
    warm = sr_nas.load_network(tmp_path / "warm" / "last.safetensors")
    assert torch.allclose(warm.get_parameter("head.weight"), shipped.get_parameter("head.weight"), atol=1e-9)
    text = train(tmp_path, "path:pretrain_network_g=fast_x9", *changed, "name=unknown", code=1)
    assert "'fast_x9' does not exist and is no network that ships with sr_nas - did you mean" in text


@pytest.mark.long
def test_a_start_from_what_the_supernet_leaves(tmp_path: Path) -> None:
    run("search", "-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path}")
    start = [f"path:pretrain_network_g={tmp_path / 'tiny' / 'inherited.safetensors'}", "path:strict_load_g=false"]
    train(
        tmp_path, f"network_g:genotype={tmp_path / 'tiny'}", *start, "train:total_iter=1", "train:optim_g:lr=1e-12", "name=heir"
    )
    supernet = load_tensors(tmp_path / "tiny" / "checkpoint.pt")["space"]
    heir = sr_nas.load_network(tmp_path / "heir" / "last.safetensors")
    assert torch.allclose(heir.get_parameter("blocks.0.fuse.weight"), supernet["blocks.0.fuse.weight"], atol=1e-9)


def test_without_validation_images(tmp_path: Path) -> None:
    printed = train(tmp_path, "datasets:val=null", "train:total_iter=4", "name=blind")
    assert "last.safetensors" in printed
    assert not (tmp_path / "blind" / "best.safetensors").exists()


def test_diverged_weights_are_never_kept(tmp_path: Path) -> None:
    words = ("train:total_iter=3", "val:val_freq=1", "train:optim_g:lr=1e30", "train:ema_decay=0", "name=wild")
    text = train(tmp_path, *words, code=1)
    assert "the training has diverged at iteration" in text and "Lower train.optim_g.lr" in text
    assert f"The last good checkpoint, {tmp_path / 'wild' / 'checkpoint.pt'}, is of iteration" in text
    assert not (tmp_path / "wild" / "best.safetensors").exists() or all(
        tensor.isfinite().all() for tensor in sr_nas.load_network(tmp_path / "wild" / "best.safetensors").state_dict().values()
    )
    state = load_tensors(tmp_path / "wild" / "checkpoint.pt")
    assert all(tensor.isfinite().all() for tensor in state["network"].values())


def test_the_smallest_patches(tmp_path: Path) -> None:
    train(tmp_path, "datasets:train:gt_size=2", "datasets:val=null", "train:total_iter=6", "name=small")


@pytest.fixture
def child_signal() -> Iterator[None]:
    """Put back what a lost loader process changes: how this process hears of children that end."""
    previous = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, previous)


LESS = "lower datasets.train.batch_size_per_gpu (now 2) and raise train.accumulate instead, lower datasets.train.gt_size (now 16)"
HITS = (
    (MemoryError(), LESS),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."), LESS),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), LESS),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), LESS),
    (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
        "signal: Bus error. Memory may be",
    ),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device."),
)


@pytest.mark.parametrize(("error", "words"), HITS, ids=lambda value: type(value).__name__)
def test_what_hits_a_run_is_one_message_with_the_checkpoint_to_go_on_from(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child_signal: None
) -> None:
    step = Trainer.step

    def hit(trainer: Trainer) -> dict[str, float]:
        if trainer.iteration == 5:
            raise error
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", hit)
    printed = train(tmp_path, "datasets:val=null", code=1)
    saved = f"The last checkpoint is {tmp_path / 'tiny_train' / 'checkpoint.pt'}; --auto_resume goes on from it."
    assert printed.splitlines()[-1].startswith("train: ") and words in printed and saved in printed
    assert saved in (tmp_path / "tiny_train" / "log.txt").read_text()
    monkeypatch.setattr(Trainer, "step", step)
    assert "iteration 4 of 12" in train(tmp_path, "datasets:val=null", resume=True)


def test_ctrl_c_twice_says_what_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, before = Trainer.step, signal.getsignal(signal.SIGINT)

    def interrupted(trainer: Trainer) -> dict[str, float]:
        if trainer.iteration == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    printed = train(tmp_path, "datasets:val=null", code=130)
    signal.signal(signal.SIGINT, before)
    saved = f"stopped at once. The last checkpoint is {tmp_path / 'tiny_train' / 'checkpoint.pt'}; --auto_resume goes on from it."
    assert printed.splitlines()[-1] == "train: " + saved.replace(" at once", "")
    assert saved in (tmp_path / "tiny_train" / "log.txt").read_text()


def test_what_exhausts_the_memory_before_a_run_begins_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sr_nas.super_resolution.evaluate_set", exhausted)
    printed = train(tmp_path, code=1)
    assert "the memory does not suffice" in printed and "validate on smaller images" in printed
    assert "Nothing is saved yet." in printed and not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers that inherit the patched method are forked")
def test_a_loader_process_that_is_killed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child_signal: None) -> None:
    read, parent = PatchDataset.__getitem__, os.getpid()

    def die(dataset: PatchDataset, address: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        if address[1] == 16 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(dataset, address)

    monkeypatch.setattr(PatchDataset, "__getitem__", die)
    printed = train(tmp_path, "datasets:val=null", "datasets:train:num_worker_per_gpu=1", code=1)
    assert "a process that reads images ahead has failed: DataLoader worker" in printed
    assert "datasets.train.num_worker_per_gpu: 0" in printed and "--auto_resume goes on from it" in printed
    assert "going on in" in train(tmp_path, "datasets:val=null", "datasets:train:num_worker_per_gpu=0", resume=True)


@pytest.mark.long
def test_a_run_that_cannot_go_on_says_how_its_weights_can(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny_train"
    shutil.copytree(trained, folder)
    way = f"Start a new run without --auto_resume, from its weights with path.pretrain_network_g={folder / 'last.safetensors'}."
    longer = train(tmp_path, *LONG, "train:total_iter=50", resume=True, code=1)
    assert "train.total_iter: 40 -> 50" in longer and way in longer
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    for changed in ({"keeper": {}}, {"network": {}}, {"optimizer": 3}, {"ema": None}, {"scheduler": {"x": 1}}, {"stream": []}):
        torch.save(state | changed, folder / "checkpoint.pt")
        text = train(tmp_path, *LONG, resume=True, code=1)
        assert f"{folder / 'checkpoint.pt'} is not of this run (" in text and way in text, changed
    places = [("scheduler", "done"), ("scheduler", "rates"), ("stream", "position"), ("watch", "lowest"), ("watch", "losses")]
    for part, key in [*places, ("keeper", "best"), ("keeper", "sums"), ("keeper", "count")]:
        torch.save(state | {part: state[part] | {key: "x"}}, folder / "checkpoint.pt")
        text = train(tmp_path, *LONG, resume=True, code=1)
        assert f"is not of this run (ValueError: state.{part}.{key} is 'x', in a new run it is " in text and way in text, key
    for count in (-1, 41, 10**9):
        torch.save(state | {"iteration": count}, folder / "checkpoint.pt")
        assert "is not of this run (" in train(tmp_path, *LONG, resume=True, code=1)
    torch.save(state, folder / "checkpoint.pt")
    (folder / "history.jsonl").rename(folder / "history")
    assert "record 1 should be that of iteration 10, as the checkpoint is of 40" in train(tmp_path, *LONG, resume=True, code=1)
    (folder / "checkpoint.pt").write_bytes(b"PK not a checkpoint")
    assert way in train(tmp_path, *LONG, resume=True, code=1)
    (folder / "checkpoint.pt").unlink()
    text = train(tmp_path, "train:total_iter=1", "datasets:val=null", resume=True)
    assert f"{folder} has no checkpoint.pt, so that run cannot go on\ntraining in {folder}_2 " in text
