"""Trainings with everything that long ones need: several sets, a teacher, TensorBoard, starts from another scale, divergence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sr_nas
from sr_nas.data.sources import folder as images_of
from sr_nas.inference.images import upscaler
from sr_nas.metrics import evaluate_set
from sr_nas.runs.run_dir import load_tensors, read_history
from sr_nas.trainer import Losses, Trainer
from tests.jobs.processes import TINY_TRAINING, run
from tests.jobs.test_search_runs import assert_equal

FOUR = "network_g:genotype=[conv_3x3, conv_3x3, conv_3x3, conv_3x3]"


class Killed(Exception):
    """The end of a process, as far as what it leaves on disk goes."""


def train(root: Path, *overrides: str, resume: bool = False, code: int = 0) -> str:
    words = ["--force_yml", f"path:experiments_root={root}", *overrides, *(["--auto_resume"] if resume else [])]
    return run("train", "-opt", TINY_TRAINING, *words, code=code)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of noise and another one in one/, on which an upscaler is judged within milliseconds."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "one").mkdir()
    for name, seed in (("a", 0), ("b", 1), ("one/c", 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A training of a network of scale 2."""
    root = tmp_path_factory.mktemp("teacher")
    train(root, FOUR, f"datasets:val={{type: folder, dataroot_gt: {photos}}}", "train:total_iter=2", "name=teacher")
    return root / "teacher"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb")).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.long
def test_everything_at_once_and_resumed_to_the_bit(
    photos: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        f"datasets:val={{type: folder, name: noise, dataroot_gt: {photos}}}",
        f"datasets:val_one={{type: folder, name: one, dataroot_gt: {photos / 'one'}}}",
        f"train:distill_opt={{type: MSELoss, teacher: {teacher}, loss_weight: 0.5}}",
        "train:pixel_opt={type: CharbonnierLoss}",
        *("train:accumulate=2", "train:warmup_iter=5", "train:grad_clip_norm=1", "train:precision=auto"),
        *("logger:use_tb_logger=true", "logger:print_freq=1"),
    ]
    printed = train(tmp_path / "straight", *options)
    folder = tmp_path / "straight" / "tiny_train"
    assert "on cpu in fp32 (threads: 1) with" in printed
    assert "bicubic on noise: " in printed and "bicubic on one: " in printed
    assert "the best network is judged by its PSNR on noise" in printed

    history = read_history(folder)
    assert [list(record["val"]) for record in history] == [["noise", "one"]] * 3
    best = max(history, key=lambda record: record["val"]["noise"]["psnr"])
    network = sr_nas.load_network(folder / "best.safetensors")
    scores = evaluate_set(upscaler(network, device="cpu"), images_of([str(photos)], scale=2), 2)
    assert scores["psnr"] == pytest.approx(best["val"]["noise"]["psnr"], abs=1e-4)

    step, taken = Trainer.step, []

    def until_killed(trainer: Trainer) -> Losses:
        if trainer.iteration == 6:
            raise Killed
        taken.append(step(trainer))
        return taken[-1]

    monkeypatch.setattr(Trainer, "step", until_killed)
    with pytest.raises(Killed):
        train(tmp_path / "resumed", *options)
    monkeypatch.setattr(Trainer, "step", step)
    again = tmp_path / "resumed" / "tiny_train"
    assert load_tensors(again / "checkpoint.pt")["iteration"] == 4
    assert "going on in" in train(tmp_path / "resumed", *options, resume=True)
    assert_equal(load_tensors(folder / "checkpoint.pt"), load_tensors(again / "checkpoint.pt"))
    for record, other in zip(history, read_history(again), strict=True):
        assert record | {"memory_bytes": 0} == other | {"memory_bytes": 0}

    shown = scalars(folder)
    assert scalars(again) == shown, "what was written between the checkpoint and the end of the process is dropped"
    assert [iteration for iteration, _ in shown["loss"]] == list(range(1, 13))
    for name in ("loss", "distill"):
        assert history[0][name] == pytest.approx(np.mean([losses[name] for losses in taken[:4]]))
        assert shown[name][0][1] == pytest.approx(taken[0][name])
    assert [iteration for iteration, _ in shown["psnr/one"]] == [4, 8, 12]
    assert [value for _, value in shown["psnr/one"]] == pytest.approx([record["val"]["one"]["psnr"] for record in history])


def test_a_start_from_another_scale_takes_everything_but_the_tail(teacher: Path, photos: Path, tmp_path: Path) -> None:
    start = [f"path:pretrain_network_g={teacher / 'best.safetensors'}", "scale=3", "datasets:train:gt_size=24", FOUR]
    start += ["datasets:val=null", "train:total_iter=1", "train:optim_g:lr=1e-12", "name=x3"]
    text = train(tmp_path, *start, code=1)
    assert "missing or of another shape: tail.weight, tail.bias. The file is of scale 2 and the network of 3." in text
    assert not (tmp_path / "x3").exists()
    x2 = sr_nas.load_network(teacher / "best.safetensors").state_dict()
    text = train(tmp_path, *start, "path:strict_load_g=false")
    assert f"{len(x2) - 2} of {len(x2)} tensors fit; new: tail.weight, tail.bias" in text
    x3 = sr_nas.load_network(tmp_path / "x3" / "last.safetensors").state_dict()
    for name, tensor in x3.items():
        if name.startswith("tail."):
            assert tensor.shape[0] == 27 and x2[name].shape[0] == 12
            assert tensor.std() > 0
        else:
            torch.testing.assert_close(tensor, x2[name], rtol=0, atol=1e-9)


def test_a_divergence_names_what_is_left_and_spoils_no_checkpoint(photos: Path, tmp_path: Path) -> None:
    text = train(
        tmp_path,
        f"datasets:val={{type: folder, name: noise, dataroot_gt: {photos}}}",
        FOUR,
        *("train:total_iter=200", "val:val_freq=50", "logger:save_checkpoint_freq=3", "train:ema_decay=0"),
        *("train:optim_g:lr=1e-3", "train:scheduler={type: MultiStepLR, milestones: [110], gamma: 1000}"),
        code=1,
    )
    folder = tmp_path / "tiny_train"
    assert ": the mean loss of the last 100 iterations is" in text
    assert "Lower train.optim_g.lr, set train.grad_clip_norm, or warm up longer with train.warmup_iter." in text
    state = load_tensors(folder / "checkpoint.pt")
    # Iteration 111 is the first of the large rate: its own loss is still a good one, and the weights after it are not.
    assert state["iteration"] == 108
    assert f"The last good checkpoint, {folder / 'checkpoint.pt'}, is of iteration 108." in text
    best = max(read_history(folder), key=lambda record: record["val"]["noise"]["psnr"])
    assert f"start from {folder / 'best.safetensors'} ({best['val']['noise']['psnr']:.3f} dB on noise, iteration" in text
    assert "diverged" in (folder / "log.txt").read_text()


def test_what_is_missing_is_said_before_a_folder_is_made(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill = f"train:distill_opt={{type: L1Loss, teacher: {teacher}}}"
    text = train(tmp_path, distill, "scale=3", "datasets:train:gt_size=24", "datasets:val=null", code=1)
    assert f"train.distill_opt.teacher: {teacher} upscales by 2, and this training by 3." in text
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install 'sr_nas[tensorboard]'" in train(tmp_path, "logger:use_tb_logger=true", code=1)
    assert not list(tmp_path.iterdir())
