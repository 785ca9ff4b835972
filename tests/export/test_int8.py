"""ONNX in 8-bit integers, against ranges and a quantised convolution computed in PyTorch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.data.sources import Pairs, sample
from sr_nas.errors import UserError
from sr_nas.export import int8
from sr_nas.export.int8 import _patches, export_int8
from sr_nas.export.model import load_model
from sr_nas.export.network_file import describe_network, save_network
from sr_nas.images.files import write_image
from sr_nas.inference.images import upscaler
from sr_nas.inference.optimize import folded, record_onnx
from sr_nas.metrics import evaluate_set
from sr_nas.networks.plain import PLAIN
from tests.export.networks import tiny_imdn
from tests.jobs.processes import run

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install 'sr_nas[onnx]'")


def tiny_plain() -> PLAIN:
    torch.manual_seed(0)
    return PLAIN(2, nf=8, num_blocks=2, genotype="conv_3x3_2,none,dwconv_3x3,spab").eval()


@pytest.fixture(scope="module")
def photos() -> Pairs:
    random = torch.Generator().manual_seed(0)
    # Smooth, so that not all activations lie in the middle of their range.
    coarse = [torch.rand(1, 3, 6, 7, generator=random) for _ in range(3)]
    images = [F.interpolate(one, (120, 150), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0) for one in coarse]
    pixels = [(255 * image).round().byte().numpy() for image in images]
    return Pairs(["a", "b", "c"], 2, lambda index: pixels[index])


@pytest.fixture(scope="module")
def made(photos: Pairs) -> tuple[bytes, dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "export_onnx", record_onnx)  # in a tenth of the time
        return export_int8(tiny_plain(), "net", describe_network(tiny_plain()), photos, photos, 1.0)


@pytest.fixture
def file(made: tuple[bytes, dict[str, str]], tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(made[0])
    return tmp_path / "net.onnx"


def quantised(model: Any) -> list[dict[str, Tensor]]:
    """Of each convolution in integers: its weights as they are stored, their scales, and those of its input and its output."""
    from onnx.numpy_helper import to_array

    stored = {one.name: torch.from_numpy(to_array(one).copy()) for one in model.graph.initializer}
    maker = {name: node for node in model.graph.node for name in node.output}
    reader = {name: node for node in model.graph.node for name in node.input}
    found = []
    for node in model.graph.node:
        before = maker.get(node.input[0]) if node.op_type == "Conv" else None
        if before is not None and before.op_type == "DequantizeLinear":
            weights, after = maker[node.input[1]], reader[node.output[0]]
            assert after.op_type == "QuantizeLinear"
            names = (weights.input[0], weights.input[1], *before.input[1:], *after.input[1:])
            keys = ("weights", "scales", "scale_in", "zero_in", "scale_out", "zero_out")
            found.append({key: stored[name] for key, name in zip(keys, names, strict=True)})
    return found


def test_ranges_and_a_convolution_are_those_of_a_quantised_network_in_pytorch(photos: Pairs, file: Path) -> None:
    import onnx

    model, network = onnx.load(file), folded(tiny_plain())
    convolutions = [*network.blocks[0].body[::2], *(network.blocks[1].body[index] for index in (0, 3))]
    seen: dict[Any, list[tuple[float, float]]] = {}

    def watch(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.setdefault(module, []).append((*(x.item() for x in inputs[0].aminmax()), *(x.item() for x in output.aminmax())))

    hooks = [one.register_forward_hook(watch) for one in convolutions]
    patches = _patches(photos)
    with torch.inference_mode():
        for patch in patches:
            network(torch.from_numpy(patch["lr"]))
    for hook in hooks:
        hook.remove()
    layers = quantised(model)
    assert len(layers) == len(convolutions) == 4  # neither the first and the last, nor the depthwise one
    for layer, module in zip(layers, convolutions, strict=True):
        assert layer["weights"].dtype == torch.int8 and layer["weights"].abs().max() == 64
        torch.testing.assert_close(layer["scales"], module.weight.detach().abs().amax((1, 2, 3)) / 64)
        for place, low, high in (("in", 0, 1), ("out", 2, 3)):
            least, most = (min(0, min(row[low] for row in seen[module])), max(0, max(row[high] for row in seen[module])))
            assert layer[f"scale_{place}"].item() == pytest.approx((most - least) / 255, rel=1e-4)
            assert layer[f"zero_{place}"].item() == pytest.approx(-least / (most - least) * 255, abs=0.51)
    # The whole network with these numbers, in PyTorch's own quantisation.
    for layer, module in zip(layers, convolutions, strict=True):
        module.weight.data = layer["weights"] * layer["scales"][:, None, None, None]
        numbers = {key: (layer[f"scale_{key}"].item(), layer[f"zero_{key}"].item(), 0, 255) for key in ("in", "out")}
        module.register_forward_pre_hook(lambda _, x, how=numbers["in"]: torch.fake_quantize_per_tensor_affine(x[0], *how))
        module.register_forward_hook(lambda _, x, y, how=numbers["out"]: torch.fake_quantize_per_tensor_affine(y, *how))
    x = torch.from_numpy(patches[0]["lr"])
    with torch.inference_mode():
        difference = (load_model(file)(x) - network(x)).abs()
        rounding = (load_model(file)(x) - tiny_plain()(x)).abs().mean()
    # A value that lies between two steps may be rounded to either.
    assert difference.mean() < rounding / 20 and difference.quantile(0.8) < 1e-6


def test_any_size_metadata_and_what_browsers_run(file: Path, made: tuple[bytes, dict[str, str]], photos: Pairs) -> None:
    import onnx

    network, model = load_model(file), onnx.load(file)
    for size in ((1, 3, 1, 1), (3, 3, 5, 33), (1, 3, 20, 14)):
        assert network(torch.rand(size)).shape == (size[0], 3, 2 * size[2], 2 * size[3])
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert {node.op_type for node in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear", "Conv"}
    assert not any(node.domain for node in model.graph.node)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.items() >= {**describe_network(tiny_plain()), **made[1]}.items()
    before, after = (evaluate_set(upscaler(one, device="cpu"), photos, 2)["psnr"] for one in (tiny_plain(), network))
    assert made[1]["int8"] == f"{after:.3f} dB, {before - after:.3f} dB less than float32, mean of 3 photos"
    assert 0 < abs(before - after) < 1
    assert 0 < float(made[1]["int8_time"].split()[0]) < 20


def test_a_loss_is_refused_with_the_reason(photos: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "export_onnx", record_onnx)
    monkeypatch.setattr(int8, "PATCHES", 1)
    with pytest.raises(UserError, match=r"int8 gives .* less than float32: more than --max_loss -50\..* pools over the"):
        export_int8(tiny_imdn(), "net", {}, photos, photos, -50)


def test_patches_are_spread_over_the_photos_and_repeat(photos: Pairs) -> None:
    first, again = _patches(photos), _patches(photos)
    assert [patch["lr"].shape for patch in first] == [(1, 3, 60, 75)] * 16  # the photos are smaller than a patch
    assert all((one["lr"] == other["lr"]).all() for one, other in zip(first, again, strict=True))
    assert (first[0]["lr"] != first[6]["lr"]).any() and (first[0]["lr"] == first[5]["lr"]).all()
    large = _patches(sample(scale=2))
    assert {patch["lr"].shape for patch in large} == {(1, 3, 96, 96)}


@pytest.mark.slow
def test_the_command_calibrates_with_photos_of_ones_own(photos: Pairs, tmp_path: Path) -> None:
    save_network(tmp_path / "net.safetensors", tiny_imdn(), {"run": "mine"})
    for index in range(3):
        write_image(tmp_path / "photos" / f"{index}.png", photos.hr(index))
    words = ("export", "--model", tmp_path / "net.safetensors", "-o", tmp_path / "int8.onnx", "--int8")
    data = ("--calibrate", tmp_path / "photos", "--data", tmp_path / "photos")
    printed = run(*words, *data, "--max_loss", "3")
    metadata = load_model(tmp_path / "int8.onnx")._runner.metadata  # type: ignore[union-attr]
    card = (tmp_path / "int8.md").read_text()
    for key in ("int8", "int8_time"):
        assert f"{key}: {metadata[key]}\n" in printed and f"| {key} | {metadata[key]} |" in card
    assert json.loads(metadata["training"]) == {"run": "mine"}
    assert "exists" in run(*words, *data, code=1)
