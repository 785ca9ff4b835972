"""Our exported files in spandrel, which chaiNNer and others read models with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.registry import NETWORKS


@pytest.fixture(scope="module")
def spandrel() -> ModuleType:
    found = pytest.importorskip("spandrel", reason="spandrel is not installed: pip install 'sr_nas[spandrel]'")
    importlib.import_module("sr_nas.bridge.spandrel_archs")
    return found


def imdn() -> IMDN:
    return IMDN(3, nf=16, num_blocks=2, genotype="conv_5x5_bn,dsconv_3x3,dil_dsconv_5x5,conv_3x3")


def dlsr() -> DLSR:
    return DLSR(2, nf=8, num_cells=4, genotype="sep_conv_3x3,dil_conv_5x5,conv_1x1,cell1+cell2,cell1+cell3")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("build", "tags"),
    [
        (imdn, ["16nf", "2nb", "conv_5x5_bn,dsconv_3x3,dil_dsconv_5x5,conv_3x3"]),
        (dlsr, ["8nf", "4nc", "sep_conv_3x3,dil_conv_5x5,conv_1x1,cell1+cell2,cell1+cell3"]),
    ],
)
def test_an_exported_file_opens_with_its_scale_and_tags(
    build: type[SRNetwork], tags: list[str], suffix: str, spandrel: ModuleType, tmp_path: Path
) -> None:
    from sr_nas.export.network_file import save_network

    torch.manual_seed(0)
    network = build().eval()
    save_network(tmp_path / f"net.{suffix}", network)
    found = spandrel.ModelLoader().load_from_file(tmp_path / f"net.{suffix}")
    assert isinstance(found, spandrel.ImageModelDescriptor)
    assert (found.scale, found.tags, found.purpose) == (network.scale, tags, "SR")
    assert (found.input_channels, found.output_channels) == (3, 3)
    assert (found.architecture.id, found.architecture.name) == (f"sr_nas-{network.arch}", network.arch)
    assert found.size_requirements.none
    assert found.tiling is spandrel.ModelTiling.DISCOURAGED
    for size in ((1, 3, 21, 17), (1, 3, 3, 1)):
        x = torch.rand(size)
        with torch.inference_mode():
            assert torch.equal(found(x), network(x).clamp(0, 1))


def test_the_files_of_others_are_still_theirs(spandrel: ModuleType) -> None:
    own = {support.architecture.id for support in spandrel.MAIN_REGISTRY if support.architecture.id.startswith("sr_nas-")}
    assert own == {f"sr_nas-{name}" for name in NETWORKS.names()} >= {"sr_nas-DLSR", "sr_nas-IMDN"}
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    foreign = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2)
    found = spandrel.ModelLoader().load_from_state_dict(foreign.state_dict())
    assert (found.architecture.id, found.scale) == ("SPAN", 2)


def test_without_spandrel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.delitem(sys.modules, "sr_nas.bridge.spandrel_archs", raising=False)
    with pytest.raises(UserError, match=r"pip install 'sr_nas\[spandrel\]'"):
        importlib.import_module("sr_nas.bridge.spandrel_archs")
