"""Trainings with branches: what they keep is a plain network, and resumed they are the straight run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sr_nas
from sr_nas.data.sources import sample
from sr_nas.export.network_file import read_metadata
from sr_nas.inference.images import upscaler
from sr_nas.metrics import evaluate_set
from sr_nas.networks.imdn import IMDN
from sr_nas.runs.run_dir import load_tensors, read_history
from sr_nas.trainer import Trainer
from tests.jobs.processes import run
from tests.jobs.test_search_runs import assert_equal
from tests.jobs.test_training_runs import train

PLAIN = sum(weight.numel() for weight in IMDN(2, 16, 1, "conv_3x3,dsconv_3x3,conv_3x3,dil_dsconv_5x5_bn").parameters())


SLOW = pytest.mark.slow


# The one with the most state is tested every day.
@pytest.mark.parametrize("kind", ["repconv", pytest.param("ecb", marks=SLOW), pytest.param("conv3xc", marks=SLOW)])
def test_a_training_in_branches(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (f"train:reparam={kind}", "train:total_iter=4", "val:val_freq=4", "logger:save_checkpoint_freq=2")
    printed = " ".join(train(tmp_path / "straight", *words).split())
    assert f"{PLAIN:,} parameters, trained as" in printed

    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self: step(self) if self.iteration < 3 else 1 / 0)  # after a checkpoint
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "killed", *words)
    monkeypatch.undo()
    train(tmp_path / "killed", *words, resume=True)
    folder, again = (tmp_path / name / "tiny_train" for name in ("straight", "killed"))
    assert_equal(load_tensors(folder / "checkpoint.pt"), load_tensors(again / "checkpoint.pt"))

    network, state = sr_nas.load_network(folder / "last.safetensors"), load_tensors(folder / "checkpoint.pt")
    assert_equal(network.state_dict(), sr_nas.load_network(again / "last.safetensors").state_dict())
    assert type(network.get_submodule("head")) is torch.nn.Conv2d
    assert "head.conv.weight" in state["ema"] and "head.conv.weight" not in network.state_dict()
    assert json.loads(read_metadata(folder / "last.safetensors")["training"])["reparam"] == kind
    scores = evaluate_set(upscaler(network, device="cpu"), sample(held_out=True, scale=2), 2)
    assert scores["psnr"] == read_history(folder)[-1]["val"]["chelsea"]["psnr"]
    assert f"trained as the branches of {kind}" in run("export", "--run", folder, "-o", tmp_path / "net.pth")
    assert f"trained as the branches of {kind}" in (tmp_path / "net.md").read_text()
    assert f"{PLAIN:,}" in run("complexity", "--model", folder)
