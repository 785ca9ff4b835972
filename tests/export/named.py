"""A folder of networks by name, in place of the package's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr_nas.export import model
from sr_nas.export.network_file import save_network
from sr_nas.networks.imdn import IMDN

FIGURES = {
    "params": 12345,
    "macs_hr_1280x720": 2_500_000_000,
    "latency_ms": 31.26,
    "machine": {"host": "a processor", "device": "cpu", "threads": 2},
    "sets": {"Set5": {"psnr": 37.654, "ssim": 0.95871, "bicubic": {"psnr": 33.66, "ssim": 0.9299}}},
}
NAMES = {"fast_x2": {}, "x2": {"data": "my photos", "license": "CC0", "figures": FIGURES}, "x4": {"license": "MIT"}}


def make_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a folder with small networks of random weights, and let it be the package's."""
    torch.manual_seed(0)
    folder.mkdir()
    for name, training in NAMES.items():
        save_network(folder / f"{name}.safetensors", IMDN(int(name[-1]), nf=16, num_blocks=1).eval(), training)
    monkeypatch.setattr(model, "SHIPPED", folder)
    return folder
