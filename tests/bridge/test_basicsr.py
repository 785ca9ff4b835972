"""Our networks inside basicsr, on whatever torchvision is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

NETWORKS = [
    {"type": "IMDN", "num_blocks": 1, "genotype": ["conv_3x3", "dsconv_3x3", "conv_5x5", "conv_3x3_bn"]},
    {"type": "DLSR", "num_cells": 3, "genotype": ["conv_3x3", "sep_conv_3x3", "dil_conv_5x5", "cell2+cell1"]},
]


def test_basicsr_imports(basicsr: ModuleType) -> None:
    """Alone it fails where torchvision has no functional_tensor any more."""
    code = "from sr_nas.bridge.basicsr import import_basicsr; print(import_basicsr().__name__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "basicsr"


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network["type"])
def test_a_stock_basicsr_model_trains_our_network(network: dict[str, object], basicsr: ModuleType, tmp_path: Path) -> None:
    from basicsr.models import build_model

    from sr_nas.bridge.basicsr import register_networks

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
