"""The same runs on a GPU, in half precision."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import sr_nas
from sr_nas.runs.run_dir import read_history
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
GPU = ("num_gpu=1", "train:precision=bf16")


@pytest.mark.parametrize("cuda_graph", ["false", "auto"])
def test_search_on_a_gpu_and_resume_on_the_cpu(cuda_graph: str, tmp_path: Path) -> None:
    words = ["-opt", TINY_SEARCH, "--force_yml", f"path:experiments_root={tmp_path}", f"search:cuda_graph={cuda_graph}"]
    run("search", *words, *GPU, "search:epochs=3")
    history = read_history(tmp_path / "tiny")
    assert all(math.isfinite(value) for record in history for value in record["loss"].values())
    assert history[-1]["alpha"] != history[0]["alpha"]
    assert "going on in" in run("search", *words, "num_gpu=0", "train:precision=bf16", "--auto_resume")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_a_network_trained_on_a_gpu_is_the_same_on_the_cpu(precision: str, tmp_path: Path) -> None:
    words = [f"path:experiments_root={tmp_path}", "num_gpu=1", f"train:precision={precision}", "train:grad_clip_norm=1"]
    run("train", "-opt", TINY_TRAINING, "--force_yml", *words)
    network = sr_nas.load_network(tmp_path / "tiny_train" / "best.safetensors")
    x = torch.rand(1, 3, 12, 12)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network.cuda()(x.cuda()).cpu(), rtol=0, atol=5e-3)
