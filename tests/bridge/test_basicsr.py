"""Our networks inside basicsr, on whatever torchvision is installed."""

from __future__ import annotations

import pickle
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

    import sr_nas.bridge.basicsr_archs  # noqa: F401 - it registers

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


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
def test_basicsrs_training_set_reads_what_ours_reads(backend: str, basicsr: ModuleType, tmp_path: Path) -> None:
    """Patches as large as the image: what is left of its randomness is the orientation."""
    from sr_nas.bridge.basicsr_pairs import BasicsrPairs

    from sr_nas.data.patches import PatchDataset, orient
    from sr_nas.data.sources import folder
    from sr_nas.images.files import to_tensor
    from tests.data.test_sources import make_lmdb, noise, save

    hr, lr = noise(12, 12, 3), noise(6, 6, 3, seed=1)
    if backend == "lmdb":
        places = [make_lmdb(tmp_path / f"{kind}.lmdb", {"a": image}) for kind, image in (("hr", hr), ("lr", lr))]
    else:
        places = [str(save(tmp_path / kind / "a.png", image).parent) for kind, image in (("hr", hr), ("lr", lr))]
    theirs = pickle.loads(pickle.dumps(BasicsrPairs(Path(places[0]), Path(places[1]), 2, 12, backend)))
    eight = [[bool(number >> bit & 1) for bit in range(3)] for number in range(8)]
    for draw in range(4):
        found = theirs[0, draw]
        allowed = [[to_tensor(orient(image, *way))[0] for image in (lr, hr)] for way in eight]
        assert any(torch.allclose(found[0], one) and torch.allclose(found[1], other) for one, other in allowed)
    if backend == "disk":
        ours = PatchDataset(folder([places[0]], [places[1]], scale=2), 12)[0, 0]
        assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in found]
        assert [tensor.shape for tensor in ours] == [tensor.shape for tensor in found]
