"""Self-describing files of networks of both tasks, and weights that others have released."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sr_nas
from sr_nas.classification.darts import DARTS
from sr_nas.classification.nasbench201 import NASBench201
from sr_nas.contracts import Classifier
from sr_nas.data.sources import folder
from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.export.network_file import (
    SETTINGS,
    describe_network,
    load_any,
    load_network,
    read_file,
    read_metadata,
    read_settings,
    save_network,
)
from sr_nas.export.released import load_released
from sr_nas.inference.images import upscaler
from sr_nas.metrics import evaluate_set
from sr_nas.networks.dlsr import DLSR, PUBLISHED
from sr_nas.networks.imdn import IMDN
from tests.export.networks import tiny_dlsr, tiny_imdn, with_statistics

GENOTYPE = "conv_5x5_bn,dsconv_3x3,dil_dsconv_5x5,conv_3x3"


@pytest.fixture
def network() -> IMDN:
    torch.manual_seed(0)
    return IMDN(3, nf=16, num_blocks=2, genotype=GENOTYPE).eval()


def test_round_trip_to_the_bit(network: IMDN, tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network, {"run": "x"})
    again = load_network(tmp_path / "net.safetensors")
    assert not again.training
    assert again.settings() == network.settings() == {"scale": 3, "nf": 16, "num_blocks": 2, "genotype": GENOTYPE.split(",")}
    x = torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        assert torch.equal(again(x), network(x))


def test_the_metadata_tells_everything(network: IMDN, tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network, {"run": "x", "iteration": 7})
    with safe_open(tmp_path / "net.safetensors", framework="pt") as stream:
        metadata = stream.metadata()
    assert metadata["architecture"] == "IMDN"
    assert json.loads(metadata["settings"])["genotype"] == GENOTYPE.split(",")
    assert (metadata["scale"], metadata["value_range"]) == ("3", "0..1 RGB")
    assert json.loads(metadata["training"]) == {"run": "x", "iteration": 7}
    assert metadata["sr_nas_version"] == sr_nas.__version__


def test_files_that_are_no_network(network: IMDN, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.safetensors does not exist"):
        sr_nas.load_network(tmp_path / "gone.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_network(tmp_path / "broken.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="does not say which network its tensors are of"):
        load_network(tmp_path / "foreign.safetensors")
    save_network(tmp_path / "net.safetensors", network)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as stream:
        save_file({"head.weight": stream.get_tensor("head.weight")}, tmp_path / "half.safetensors", stream.metadata())
    with pytest.raises(UserError, match=r"missing or of another shape or type: head\.bias"):
        load_network(tmp_path / "half.safetensors")


def test_weights_stored_in_float16_are_computed_with_in_float32(network: IMDN, tmp_path: Path) -> None:
    for name, half in (("full", False), ("half", True)):
        save_network(tmp_path / f"{name}.safetensors", network, half=half)
    weights = 2 * sum(parameter.numel() for parameter in network.parameters())  # two bytes less for each
    full, half = (((tmp_path / f"{name}.safetensors").stat().st_size) for name in ("full", "half"))
    assert full - half == pytest.approx(weights, rel=0.02)
    loaded = load_network(tmp_path / "half.safetensors")
    for name, tensor in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    with torch.no_grad():
        network.head.bias[0] = 1e5
    with pytest.raises(UserError, match=r"large\.safetensors is not written: head\.bias is too large for float16"):
        save_network(tmp_path / "large.safetensors", network, half=True)
    assert not (tmp_path / "large.safetensors").exists()


def test_whole_numbers_are_no_weights(network: IMDN, tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", network)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as stream:
        tensors, metadata = {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata()  # noqa: SIM118
    for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool):
        save_file(tensors | {"head.weight": tensors["head.weight"].to(dtype)}, tmp_path / "whole.safetensors", metadata)
        with pytest.raises(UserError, match=r"missing or of another shape or type: head\.weight"):
            load_network(tmp_path / "whole.safetensors")
    save_file(tensors | {"head.weight": tensors["head.weight"].half()}, tmp_path / "half.safetensors", metadata)
    load_network(tmp_path / "half.safetensors")


def released_names(network: IMDN) -> dict[str, torch.Tensor]:
    """The tensors of our IMDN under its authors' names."""
    own = network.state_dict()
    names = {"head": "fea_conv", "fuse": "c.0", "body": "LR_conv", "tail": "upsampler.0"}
    for block in range(network.num_blocks):
        names |= {f"blocks.{block}.convs.{conv}": f"IMDB{block + 1}.c{conv + 1}" for conv in range(4)}
        names |= {f"blocks.{block}.fuse": f"IMDB{block + 1}.c5"}
        names |= {f"blocks.{block}.attention.gate.{layer}": f"IMDB{block + 1}.cca.conv_du.{layer}" for layer in (0, 2)}
    return {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_weights_in_every_wrapper(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = IMDN(2, nf=16, num_blocks=3).eval()
    tensors = {prefix + name: tensor for name, tensor in released_names(network).items()}
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "imdn.pth")
    loaded = load_released(tmp_path / "imdn.pth", "imdn")
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(loaded(x), network(x))


def test_released_files_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"weights": {"a": torch.zeros(1), "b": 3}, "epoch": 3}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="found weights, epoch"):
        load_released(tmp_path / "odd.pth", "imdn")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"holds no IMDN.*found a"):
        load_released(tmp_path / "other.pth", "imdn")
    with pytest.raises(UserError, match="Name it with --arch"):
        load_model(tmp_path / "other.pth")
    with pytest.raises(UserError, match="no released weights of 'imdm' are known - did you mean 'IMDN'"):
        load_released(tmp_path / "other.pth", "imdm")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this ran",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"params": Harmful()}, tmp_path / "harm.pth")
    with pytest.raises(UserError, match=r"harm\.pth was refused"):
        load_released(tmp_path / "harm.pth", "imdn")
    assert capsys.readouterr().out == ""


def test_folders_that_hold_no_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained network"):
        load_model(tmp_path)
    (tmp_path / "genotype.json").write_text("{}")
    with pytest.raises(UserError, match="is a search"):
        load_model(tmp_path)


def test_released_imdn_x4_has_the_published_count(shared: Path) -> None:
    network = load_released(shared / "weights" / "IMDN_x4.pth", "IMDN")
    assert sum(parameter.numel() for parameter in network.parameters()) == 715_176
    assert network.scale == 4


def released_dlsr_names(network: DLSR) -> dict[str, torch.Tensor]:
    """The tensors of our DLSR under its authors' names, for images in 0..255."""
    names = {"head": "fea_conv", "fuse": "cout.0", "body": "LR_conv", "tail": "upsampler.0"}
    names |= {f"joins.inputs{cell}": f"c{cell}.0" for cell in range(3, network.num_cells + 1)}
    gates = {"reduce": "conv1", "skip": "conv_f", "stride": "conv2", "expand": "conv4"}
    gates |= {"wide.0": "conv_max", "wide.2": "conv3", "wide.4": "conv3_"}
    for cell in range(network.num_cells):
        names |= {f"cells.{cell}.distill.{index}": f"B{cell + 1}.c{index + 1}_d" for index in range(3)}
        names |= {f"cells.{cell}.last": f"B{cell + 1}.c4", f"cells.{cell}.fuse": f"B{cell + 1}.c5"}
        names |= {f"cells.{cell}.attention.{ours}": f"B{cell + 1}.esa.{theirs}" for ours, theirs in gates.items()}
    own = network.state_dict()
    tensors = {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for ours, theirs in names.items() for kind in ("weight", "bias")}
    for name, tensor in own.items():
        if match := re.fullmatch(r"cells\.(\d)\.ops\.(\d)\.(?:(\d)\.)?weight", name):
            tensors[f"B{int(match[1]) + 1}.c{int(match[2]) + 1}_r.op.{match[3] or 0}.weight"] = tensor
    tensors["fea_conv.weight"] = tensors["fea_conv.weight"] / 255
    return tensors | {name: 255 * tensors[name] for name in ("upsampler.0.weight", "upsampler.0.bias")}


def test_released_dlsr_of_another_value_range(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = ("sep_conv_3x3", "dil_conv_5x5", "conv_7x7", "cell1+cell2", "cell1+cell3")
    network = DLSR(3, nf=8, num_cells=4, genotype=names).eval()
    torch.save({"state_dict": released_dlsr_names(network), "epoch": 7}, tmp_path / "dlsr.pt")
    loaded = load_model(tmp_path / "dlsr.pt", "dlsr", ",".join(names))
    assert loaded.genotype == network.genotype and loaded.scale == 3
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=1e-6)
    with pytest.raises(
        UserError, match=r"operations sep_conv_3x3, dil_conv_5x5, conv_7x7, but not which cells feed cells 3 to 4"
    ):
        load_model(tmp_path / "dlsr.pt", "dlsr")
    with pytest.raises(UserError, match="but the genotype names conv_1x1, dil_conv_5x5, conv_7x7"):
        load_model(tmp_path / "dlsr.pt", "dlsr", "conv_1x1,dil_conv_5x5,conv_7x7,cell1+cell2,cell1+cell3")
    with pytest.raises(UserError, match="holds no IMDN"):
        load_model(tmp_path / "dlsr.pt", "imdn")
    torch.save(released_names(IMDN(2, nf=16, num_blocks=1)), tmp_path / "imdn.pth")
    with pytest.raises(UserError, match="holds no DLSR"):
        load_model(tmp_path / "imdn.pth", "dlsr", ",".join(names))
    with pytest.raises(UserError, match="they take no genotype"):
        load_model(tmp_path / "imdn.pth", "imdn", ",".join(names))


@pytest.mark.long
def test_released_dlsr_gives_its_scores_on_set5(shared: Path) -> None:
    network = load_model(shared / "weights" / "DLSR_para_loss_x2.pt", "dlsr", ",".join(PUBLISHED))
    assert sum(parameter.numel() for parameter in network.parameters()) == 327_804
    pairs = folder([str(shared / "data/Set5/HR")], [str(shared / "data/Set5/LR_matlab/x2")], scale=2)
    scores = evaluate_set(upscaler(network, device="cpu"), pairs, 2)
    assert scores["psnr"] == pytest.approx(38.041, abs=0.003)
    assert scores["ssim"] == pytest.approx(0.9606, abs=0.0002)


def test_a_pth_opens_by_itself_and_strictly_under_params(tmp_path: Path) -> None:
    network = tiny_dlsr(4)
    save_network(tmp_path / "net.pth", network, {"run": "x"})
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
    save_network(tmp_path / "net.safetensors", network)
    settings = read_settings(load_file(tmp_path / "net.safetensors")[SETTINGS].half())
    assert settings == {"architecture": "DLSR", "settings": json.dumps(network.settings())}
    assert set(read_file(tmp_path / "net.safetensors")[1]) == set(network.state_dict())
    with pytest.raises(UserError, match="does not describe a network"):
        read_settings(torch.tensor([1, 2], dtype=torch.uint8))


def test_a_pth_that_lacks_tensors(tmp_path: Path) -> None:
    network = tiny_imdn()
    torch.save({"params": {"a": torch.zeros(1)}, "sr_nas": describe_network(network)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit its architecture IMDN.*missing .* head\.weight"):
        load_model(tmp_path / "other.pth")


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
