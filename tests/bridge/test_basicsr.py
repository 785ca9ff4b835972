"""basicsr's own networks in our tools, and ours in basicsr, on whatever torchvision is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sr_nas.bridge.basicsr import NETWORKS_THERE, register_networks, train
from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.export.network_file import save_network
from sr_nas.registry import NETWORKS
from tests.jobs.processes import TINY_TRAINING, run

OURS = [
    {"type": "IMDN", "num_blocks": 1, "genotype": ["conv_3x3", "dsconv_3x3", "conv_5x5", "conv_3x3_bn"]},
    {"type": "DLSR", "num_cells": 3, "genotype": ["conv_3x3", "sep_conv_3x3", "dil_conv_5x5", "cell2+cell1"]},
]


@pytest.mark.long
def test_basicsr_imports(basicsr: ModuleType) -> None:
    """Alone it fails where torchvision has no functional_tensor any more."""
    code = "from sr_nas.bridge.basicsr import import_basicsr; print(import_basicsr().__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "basicsr"


@pytest.mark.parametrize("network", OURS, ids=lambda network: network["type"])
def test_a_stock_basicsr_model_trains_our_network(network: dict[str, object], basicsr: ModuleType, tmp_path: Path) -> None:
    from basicsr.models import build_model

    register_networks()
    options = {
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": 0,
        "dist": False,
        "is_train": True,
        "manual_seed": 0,
        "network_g": {"scale": 2, "nf": 16} | network,
        "path": {"pretrain_network_g": None, "strict_load_g": True, "models": str(tmp_path)},
        "train": {
            "ema_decay": 0.999,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [100], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
    }
    torch.manual_seed(0)
    model = build_model(options)
    low = torch.rand(2, 3, 8, 8)
    batch, losses = {"lq": low, "gt": low.repeat_interleave(2, -1).repeat_interleave(2, -2)}, []
    for iteration in range(1, 31):
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()["l_pix"])
    assert losses[-1] < 0.6 * losses[0]
    assert type(model.net_g).__name__ == network["type"]
    assert str(model.net_g.genotype).endswith(f"({', '.join(network['genotype'])})")  # type: ignore[arg-type]


SMALL: dict[str, dict[str, Any]] = {
    "EDSR": {"num_feat": 8, "num_block": 1},
    "MSRResNet": {"num_feat": 8, "num_block": 1},
    "RCAN": {"num_feat": 16, "num_group": 1, "num_block": 1},
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_theirs_and_its_file_describes_it(name: str, basicsr: ModuleType, tmp_path: Path) -> None:
    module, scale_word, (*_, scale) = NETWORKS_THERE[name]
    theirs = getattr(__import__(f"basicsr.archs.{module}", fromlist=[name]), name)
    network = NETWORKS.get(f"basicsr.{name}")(scale=scale, **SMALL[name], num_in_ch=3, num_out_ch=3)
    other = theirs(num_in_ch=3, num_out_ch=3, **{scale_word: scale}, **SMALL[name])
    other.load_state_dict(network.state_dict())
    save_network(tmp_path / "x.safetensors", network)
    loaded, x = load_model(tmp_path / "x.safetensors"), torch.rand(1, 3, 7, 9)
    assert loaded.scale == scale and loaded.arch == f"basicsr.{name}"
    with torch.no_grad():
        assert torch.equal(loaded(x), other(x)) and loaded(x).shape == (1, 3, 7 * scale, 9 * scale)


def test_a_scale_that_it_cannot_is_refused(basicsr: ModuleType) -> None:
    with pytest.raises(UserError, match=r"basicsr\.RRDBNet upscales by 4, not by 2"):
        NETWORKS.get("basicsr.RRDBNet")(scale=2)


def test_options_that_basicsr_does_not_check_are_an_error_in_words(basicsr: ModuleType) -> None:
    with pytest.raises(UserError, match=r"basicsr cannot build basicsr\.SRVGGNetCompact of act_type: gelu"):
        NETWORKS.get("basicsr.SRVGGNetCompact")(scale=2, act_type="gelu", num_feat=8, num_conv=1)
    with pytest.raises(UserError, match="not finite: look at img_range"):
        NETWORKS.get("basicsr.EDSR")(scale=2, num_in_ch=3, num_out_ch=3, img_range=0.0, num_feat=8, num_block=1)


def test_it_is_built_without_values_to_be_counted(basicsr: ModuleType) -> None:
    """As a graph in a file does, which states its settings alone."""
    with torch.device("meta"):
        network = NETWORKS.get("basicsr.EDSR")(scale=2, num_in_ch=3, num_out_ch=3, num_feat=64, num_block=16)
    # The 1,370K that the field's tables give for the EDSR baseline at x2.
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_369_859


def test_it_is_trained_measured_and_exported(basicsr: ModuleType, tmp_path: Path) -> None:
    words = (f"path:experiments_root={tmp_path}", "name=edsr", "train:start=random")
    words += ("network_g={type: basicsr.EDSR, num_feat: 8, num_block: 1}",)
    run("train", "-opt", TINY_TRAINING, "--force_yml", *words)
    assert "basicsr.EDSR" in run("export", "--run", tmp_path / "edsr", "-o", tmp_path / "x.safetensors")
    assert "Genotype" not in (tmp_path / "x.md").read_text()
    assert "chelsea" in run("evaluate", "--model", tmp_path / "x.safetensors", "--data", "sample")
    run("export", "--model", tmp_path / "x.safetensors", "-o", tmp_path / "x.pth")
    tensors = torch.load(tmp_path / "x.pth", weights_only=True)["params"]
    assert all(torch.equal(tensor, load_model(tmp_path / "x.safetensors").state_dict()[name]) for name, tensor in tensors.items())


GENOTYPE = ["conv_3x3", "dsconv_3x3", "conv_3x3", "conv_3x3"]


def test_our_imdn_trains_in_stock_basicsr(basicsr: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    for folder, side in (("gt", 32), ("lq", 16)):
        (tmp_path / folder).mkdir()
        for index in range(2):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    places = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq"), "io_backend": {"type": "disk"}}
    drawing = {"gt_size": 16, "use_hflip": True, "use_rot": True, "use_shuffle": True}
    loading = {"num_worker_per_gpu": 0, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 4, "prefetch_mode": None}
    pairs = {"name": "pairs", "type": "PairedImageDataset", **places, **drawing, **loading}
    options = {
        "name": "imdn", "model_type": "SRModel", "scale": 2, "num_gpu": 0, "manual_seed": 0, "datasets": {"train": pairs},
        "network_g": {"type": "IMDN", "scale": 2, "nf": 16, "num_blocks": 1, "genotype": GENOTYPE},
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9, "optim_g": {"type": "Adam", "lr": 1e-3}, "total_iter": 2, "warmup_iter": -1,
            "scheduler": {"type": "MultiStepLR", "milestones": [9], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }  # fmt: skip
    (tmp_path / "opt.yml").write_text(yaml.safe_dump(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-opt", "opt.yml"])
    from basicsr.models.sr_model import SRModel

    built: list[SRModel] = []
    begin = SRModel.__init__
    monkeypatch.setattr(SRModel, "__init__", lambda self, opt: (built.append(self), begin(self, opt))[1])
    train()
    saved = tmp_path / "experiments" / "imdn" / "models" / "net_g_2.pth"
    theirs = built[0].net_g_ema.eval()
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(load_model(saved, "imdn", GENOTYPE)(x), theirs(x))
    kept = torch.load(saved, weights_only=True)
    assert any(not torch.equal(kept["params_ema"][name], tensor) for name, tensor in kept["params"].items())
