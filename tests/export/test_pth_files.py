"""Files for BasicSR and its family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.export.network_file import (
    SETTINGS,
    describe_network,
    read_file,
    read_metadata,
    read_settings,
    save_network,
    save_pth,
    settings_tensor,
)
from tests.export.networks import tiny_dlsr, tiny_imdn


def test_a_pth_opens_by_itself_and_strictly_under_params(tmp_path: Path) -> None:
    network = tiny_dlsr(4)
    save_pth(tmp_path / "net.pth", network, {"run": "x"})
    again = load_model(tmp_path / "net.pth")
    assert not again.training and again.settings() == network.settings()
    x = torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))
    content = torch.load(tmp_path / "net.pth", weights_only=True)
    other = type(network)(**network.settings())
    other.load_state_dict(content["params"], strict=True)
    assert json.loads(read_metadata(tmp_path / "net.pth")["training"]) == {"run": "x"}
    # The two mappings share their tensors, on disk too.
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    torch.save(network.state_dict(), tmp_path / "bare.pth")
    assert (tmp_path / "net.pth").stat().st_size - (tmp_path / "bare.pth").stat().st_size < weights


def test_the_settings_among_the_tensors(tmp_path: Path) -> None:
    network = tiny_dlsr(4)
    found = read_settings(settings_tensor(network).half())
    assert found == {"architecture": "DLSR", "settings": json.dumps(network.settings())}
    save_network(tmp_path / "net.safetensors", network)
    assert SETTINGS in load_file(tmp_path / "net.safetensors")
    assert set(read_file(tmp_path / "net.safetensors")[1]) == set(network.state_dict())
    with pytest.raises(UserError, match="does not describe a network"):
        read_settings(torch.tensor([1, 2], dtype=torch.uint8))


def test_files_that_contradict_themselves(tmp_path: Path) -> None:
    network = tiny_imdn()
    tensors = network.state_dict() | {SETTINGS: settings_tensor(tiny_dlsr(4))}
    save_file(tensors, tmp_path / "net.safetensors", describe_network(network))
    with pytest.raises(UserError, match=r"contradicts itself: its metadata and its tensor sr_nas\.settings"):
        load_model(tmp_path / "net.safetensors")
    torch.save({"params": {"a": torch.zeros(1)}, "sr_nas": describe_network(network)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit its architecture IMDN.*missing .* head\.weight"):
        load_model(tmp_path / "other.pth")
