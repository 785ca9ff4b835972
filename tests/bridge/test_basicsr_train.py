from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sr_nas.export.model import load_model

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
    train = {"name": "pairs", "type": "PairedImageDataset", **places, **drawing, **loading}
    options = {
        "name": "imdn", "model_type": "SRModel", "scale": 2, "num_gpu": 0, "manual_seed": 0, "datasets": {"train": train},
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

    from sr_nas.bridge.basicsr import train

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
