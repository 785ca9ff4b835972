"""Classifiers in files: what they say of themselves, and that nobody takes one for another kind of network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sr_nas
from sr_nas.classification.darts import DARTS
from sr_nas.classification.nasbench201 import NASBench201
from sr_nas.contracts import Classifier
from sr_nas.errors import UserError
from sr_nas.export.network_file import load_any, read_metadata, save_network
from tests.export.networks import with_statistics

CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
NETWORKS = {
    "NASBench201": lambda: NASBench201(7, channels=2, num_cells=1, genotype=CELL),
    "DARTS": lambda: DARTS(channels=2, num_cells=3, num_classes=7, auxiliary=True),
}


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_classifier_comes_back_whole(arch: str, tmp_path: Path) -> None:
    network: Classifier = with_statistics(NETWORKS[arch]()).eval()
    save_network(tmp_path / "net.safetensors", network, {"mean": [0.1, 0.2, 0.3]})
    again = load_any(tmp_path / "net.safetensors")
    assert (again.arch, again.settings(), again.training) == (arch, network.settings(), False)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))
    said = read_metadata(tmp_path / "net.safetensors")
    assert (said["task"], said["architecture"], said["num_classes"], said["input_size"]) == ("classification", arch, "7", "32")
    assert json.loads(said["training"]) == {"mean": [0.1, 0.2, 0.3]} and "scale" not in said
    with pytest.raises(UserError, match=rf"is a classifier, {arch} of 7 classes.* upscales none"):
        sr_nas.load_network(tmp_path / "net.safetensors")
