"""basicsr's own networks in our tools."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.export.network_file import save_network
from sr_nas.registry import NETWORKS
from tests.jobs.processes import TINY_TRAINING, run

SMALL: dict[str, dict[str, Any]] = {
    "EDSR": {"num_feat": 8, "num_block": 1},
    "MSRResNet": {"num_feat": 8, "num_block": 1},
    "RCAN": {"num_feat": 16, "num_group": 1, "num_block": 1},
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_theirs_and_its_file_describes_it(name: str, basicsr: ModuleType, tmp_path: Path) -> None:
    from sr_nas.bridge.basicsr import NETWORKS_THERE

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
    words = (f"path:experiments_root={tmp_path}", "name=edsr", "network_g={type: basicsr.EDSR, num_feat: 8, num_block: 1}")
    run("train", "-opt", TINY_TRAINING, "--force_yml", *words)
    assert "basicsr.EDSR" in run("export", "--run", tmp_path / "edsr", "-o", tmp_path / "x.safetensors")
    assert "Genotype" not in (tmp_path / "x.md").read_text()
    assert "chelsea" in run("evaluate", "--model", tmp_path / "x.safetensors", "--data", "sample")
    run("export", "--model", tmp_path / "x.safetensors", "-o", tmp_path / "x.pth")
    tensors = torch.load(tmp_path / "x.pth", weights_only=True)["params"]
    assert all(torch.equal(tensor, load_model(tmp_path / "x.safetensors").state_dict()[name]) for name, tensor in tensors.items())
