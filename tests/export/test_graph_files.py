"""ONNX files and torch.export programs, against the networks that they were made of."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.contracts import SRNetwork
from sr_nas.data.sources import folder
from sr_nas.errors import UserError
from sr_nas.export import network_file
from sr_nas.export.model import load_model
from sr_nas.export.network_file import save_network
from sr_nas.images.files import read_image, write_image
from sr_nas.inference import optimize
from sr_nas.inference.images import upscaler
from sr_nas.inference.optimize import HalfPrecision, RuntimeNetwork, countable, verify_graph
from sr_nas.inference.tiles import pools_globally, tile_overlap
from sr_nas.metrics import evaluate_set
from tests.export.networks import tiny_dlsr, tiny_imdn
from tests.inference.tensors import upscale
from tests.jobs.processes import run

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install 'sr_nas[onnx]'")
NETWORKS = {"imdn": tiny_imdn, "dlsr": tiny_dlsr}
KINDS = [pytest.param(".onnx", marks=needs_onnx), ".pt2"]
# From one pixel on; below and above the 15 pixels of DLSR's attention; and where its coarsest grid has one point.
SIZES = ((1, 3, 1, 1), (3, 3, 5, 33), (1, 3, 20, 14), (1, 3, 21, 16), (2, 3, 37, 52))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("graphs")
    # Traced once for both kinds, which is half of the time.
    programs = {build().arch: optimize.traced(build()) for build in NETWORKS.values()}
    with pytest.MonkeyPatch.context() as patch:
        for module in (optimize, network_file):
            patch.setattr(module, "traced", lambda network, half=False: programs[network.arch])
        _write_all(place)
    return place


def _write_all(place: Path) -> None:
    for name, build in NETWORKS.items():
        save_network(place / f"{name}.safetensors", build(), {"run": "x"})
        save_network(place / f"{name}.pt2", build(), {"run": "x"})
        if not MISSING:
            told = save_network(place / f"{name}.onnx", build(), {"run": "x"})
            assert told.startswith("ONNX opset 18, fp32; ONNX Runtime differs from the network by at most ")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_any_batch_height_and_width_gives_what_pytorch_gives(name: str, kind: str, files: Path) -> None:
    network, loaded = NETWORKS[name](), load_model(files / f"{name}{kind}")
    for size in SIZES:
        x = torch.rand(size)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_tells_what_its_layers_would(name: str, kind: str, files: Path) -> None:
    network, path = NETWORKS[name](), files / f"{name}{kind}"
    loaded = load_model(path)
    assert isinstance(loaded, RuntimeNetwork)
    assert (loaded.arch, loaded.scale, loaded.settings()) == (network.arch, network.scale, network.settings())
    assert loaded.genotype == network.genotype
    assert tile_overlap(loaded) == tile_overlap(network) > 0
    assert pools_globally(loaded) is pools_globally(network) is True
    assert str(countable(loaded)) == str(network)
    # A BatchNorm's statistics are let go elsewhere, a few bytes of them.
    assert peak_activation_bytes(loaded, (40, 48)) == pytest.approx(peak_activation_bytes(network, (40, 48)), rel=1e-3)
    with pytest.raises(UserError, match="precision of an exported graph was chosen"):
        upscale(loaded, torch.rand(1, 3, 8, 8), device="cpu", precision="bf16")


@pytest.mark.long
@needs_onnx
def test_what_the_onnx_file_says_to_others(files: Path) -> None:
    import onnx

    model = onnx.load(files / "dlsr.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("lr", "sr")
    dims = [[dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in (given, made)]
    assert dims == [["batch", 3, "height", "width"], ["batch", 3, "3*height", "3*width"]]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["architecture"], metadata["scale"], metadata["value_range"]) == ("DLSR", "3", "0..1 RGB")
    assert json.loads(metadata["training"]) == {"run": "x"}
    assert json.loads(metadata["settings"])["genotype"] == {"op1": "sep_conv_3x3", "op2": "dil_conv_5x5", "op3": "conv_1x1"}
    content = (files / "dlsr.onnx").read_bytes()
    assert b".py" not in content and str(Path.cwd()).encode() not in content
    # Folded: neither the operator nor its statistics are left.
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(files / "imdn.onnx").graph.node}


@pytest.mark.long
@needs_onnx
def test_half_precision_takes_half_the_space_and_rounds_more(files: Path, tmp_path: Path) -> None:
    network = tiny_imdn()
    assert ", fp16;" in save_network(tmp_path / "half.onnx", network, half=True)
    import onnx

    weights = onnx.load(tmp_path / "half.onnx").graph.initializer
    assert {onnx.TensorProto.DataType.Name(one.data_type) for one in weights if np.prod(one.dims) > 4} == {"FLOAT16"}
    x = torch.rand(1, 3, 30, 23)
    with torch.inference_mode():
        difference = (load_model(tmp_path / "half.onnx")(x) - network(x)).abs().max()
    assert 1e-5 < difference < 1e-2


def test_what_overflows_in_half_precision_is_refused() -> None:
    network = tiny_imdn()
    with torch.no_grad():
        # Nothing in float16 is larger than 65504.
        network.head.weight *= 1e6
        network.head.bias *= 1e6
        network.tail.weight /= 1e6
    assert verify_graph(network, copy.deepcopy(network), "fp32", "itself") == 0
    with pytest.raises(UserError, match=r"differs from PyTorch by nan .*It is refused\. Export it without --fp16"):
        verify_graph(network, HalfPrecision(copy.deepcopy(network)), "fp16", "half")


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(network: SRNetwork) -> SRNetwork:
        other = tiny_imdn()
        other.tail.bias.data += 2e-4
        return other

    (tmp_path / "net.pt2").write_bytes(b"before")
    monkeypatch.setattr(optimize, "folded", damaged)
    with pytest.raises(UserError, match=r"program of net\.pt2 differs from PyTorch by 0\.0002 on an input of 1x3x17x31"):
        save_network(tmp_path / "net.pt2", tiny_imdn())
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_bytes() == b"before"


def test_what_is_missing_or_foreign_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (".onnx", ".pt2"):
        with pytest.raises(UserError, match=r"gone\.\w+ does not exist"):
            load_model(tmp_path / f"gone{kind}")
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"broken\.pt2 is text, which begins with 'no archive'\. Models are read from"):
        load_model(tmp_path / "broken.pt2")
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.rand(2),)), tmp_path / "foreign.pt2")
    with pytest.raises(UserError, match=r"foreign\.pt2 was not exported by sr_nas"):
        load_model(tmp_path / "foreign.pt2")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x0a\x12 no graph")
    if not MISSING:
        with pytest.raises(UserError, match=r"broken\.onnx cannot be read as ONNX"):
            load_model(tmp_path / "broken.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnxruntime must be installed for ONNX: pip install 'sr_nas\[onnx\]'"):
        load_model(tmp_path / "broken.onnx")


@pytest.mark.long
@needs_onnx
def test_weights_beside_an_onnx_file_are_read_and_nothing_outside_its_folder(files: Path, tmp_path: Path) -> None:
    import onnx

    network, x = tiny_imdn(), torch.rand(1, 3, 9, 8)
    (tmp_path / "sub").mkdir()

    def write(name: str, location: str) -> Path:
        model = onnx.load(files / "imdn.onnx")
        onnx.save(model, tmp_path / name, save_as_external_data=True, location="data", size_threshold=0)
        model = onnx.load(tmp_path / name, load_external_data=False)
        for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"):
            entry.value = location
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path / name

    with torch.inference_mode():
        torch.testing.assert_close(load_model(write("x.onnx", "data"))(x), network(x), rtol=0, atol=1e-5)
    (tmp_path / "sub" / "data").symlink_to(tmp_path / "data")
    for number, location in enumerate(("../data", str(tmp_path / "data"), "data", "../../dev/zero")):
        file = write(f"{number}.onnx", location).rename(tmp_path / "sub" / f"{number}.onnx")
        with pytest.raises(UserError, match="outside its own folder"):
            load_model(file)
    with pytest.raises(UserError, match="which does not exist"):
        load_model(write("y.onnx", "gone"))


@pytest.mark.long
@needs_onnx
def test_metadata_of_an_onnx_file_that_are_no_text(files: Path, tmp_path: Path) -> None:
    content = (files / "imdn.onnx").read_bytes()
    (tmp_path / "x.onnx").write_bytes(content.replace(b"0..1 RGB", b"0..1 R\xec\xff"))
    with pytest.raises(UserError, match=r"x\.onnx is damaged: its metadata are not UTF-8"):
        load_model(tmp_path / "x.onnx")


@pytest.mark.long
def test_a_program_is_read_under_its_own_suffix_alone_and_without_pytorchs_log(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = (files / "imdn.pt2").read_bytes()
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"may run code of its author's.* ends in \.pt2"):
        load_model(tmp_path / "x.pth")
    (tmp_path / "y.PT2").write_bytes(content)
    assert load_model(tmp_path / "y.PT2").scale == 2
    with zipfile.ZipFile(tmp_path / "z.pt2", "w") as archive:
        archive.writestr("z/archive_format", "pt2")
        archive.writestr("z/models/model.json", "{")
    with pytest.raises(UserError, match=r"cannot read .*z\.pt2 as a program"):
        load_model(tmp_path / "z.pt2")
    assert not caplog.records


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_tools_take_a_graph_as_they_take_a_network(kind: str, files: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    write_image(tmp_path / "set" / "a.png", random.integers(0, 256, (40, 34, 3), np.uint8))
    outputs = []
    for number, model in enumerate((files / f"imdn{kind}", files / "imdn.safetensors")):
        out = tmp_path / f"out{number}"
        run("inference", "-i", tmp_path / "set", "-o", out, "--model", model, "--num_gpu", "0", "--tile", "32", "--ensemble")
        outputs.append(read_image(out / "a.png").astype(int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1
    models = {"graph": {"path": str(files / f"imdn{kind}")}, "network": {"path": str(files / "imdn.safetensors")}}
    options = {
        "name": "table",
        "num_gpu": 0,
        "datasets": {"set": str(tmp_path / "set")},
        "models": models,
        "path": {"experiments_root": str(tmp_path)},
    }
    (tmp_path / "table.yml").write_text(json.dumps(options))
    run("evaluate", "-opt", tmp_path / "table.yml")
    rows = {row["name"]: row for row in json.loads((tmp_path / "table" / "table.json").read_text())["models"]}
    for key in ("params", "macs_lr_1280x720", "macs_hr_1280x720"):
        assert rows["graph"][key] == rows["network"][key] > 0
    assert rows["graph"]["sets"]["set"]["psnr"] == pytest.approx(rows["network"]["sets"]["set"]["psnr"], abs=1e-3)


@needs_onnx
@pytest.mark.slow
def test_released_imdn_gives_its_score_through_onnx_runtime(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "imdn.onnx"
    run("export", "--model", shared / "weights" / "IMDN_x4.pth", "--arch", "imdn", "-o", file)
    pairs = folder([str(shared / "data/Set5/HR")], [str(shared / "data/Set5/LR_matlab/x4")], scale=4)
    assert evaluate_set(upscaler(load_model(file), device="cpu"), pairs, 4)["psnr"] == pytest.approx(32.210, abs=0.001)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_graph_of_another_network_than_its_metadata_describe_is_refused(scale: int) -> None:
    def other(x: torch.Tensor) -> torch.Tensor:
        if scale == 1:
            raise ValueError("Required inputs (['x']) are missing\nmore")
        return x.repeat(1, 1, scale, scale)

    other.runtime, other.in_torch = "another tool's", True  # type: ignore[attr-defined]
    words = {1: r"does not run as .* describe: Required inputs \(\['x'\]\) are missing$", 3: r"\(1, 3, 12, 15\) instead of"}
    with pytest.raises(UserError, match=words[scale]):
        RuntimeNetwork(tiny_imdn(), other)(torch.rand(1, 3, 4, 5))  # type: ignore[arg-type]
