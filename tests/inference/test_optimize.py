"""Folded layers, and which engine runs a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.inference import optimize
from sr_nas.inference.images import upscale_image
from sr_nas.inference.optimize import RuntimeNetwork, folded, for_inference, record_onnx
from sr_nas.networks.imdn import IMDN
from tests.export.networks import tiny_dlsr, tiny_imdn, with_statistics


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("candidate", ["conv_3x3_bn", "dsconv_5x5_bn", "dil_dsconv_3x3_bn"])
def test_folding_changes_nothing_but_rounding(candidate: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    network = with_statistics(IMDN(2, nf=16, num_blocks=2, genotype=[candidate] * 4)).to(dtype).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fewer = folded(network)
    assert (norms(network), norms(fewer)) == (8, 0)
    x = torch.rand(2, 3, 20, 17, dtype=dtype)
    with torch.inference_mode():
        assert (fewer(x) - network(x)).abs().max() < tolerance
        # The statistics matter: a network without them gives something else.
        plain = IMDN(2, nf=16, num_blocks=2, genotype=[candidate.removesuffix("_bn")] * 4).to(dtype).eval()
        plain.load_state_dict(network.state_dict(), strict=False)
        assert (plain(x) - network(x)).abs().max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_norm_without_a_convolution_before_it_stays() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    )
    with_statistics(chain).eval()
    fewer = folded(chain)
    assert [type(module).__name__ for module in fewer] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "Conv2d"]
    x = torch.rand(1, 3, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fewer(x), chain(x), rtol=0, atol=1e-5)


def test_a_network_in_training_is_folded_by_its_statistics() -> None:
    network = tiny_imdn()
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        expected = network(x)
        fewer = folded(network.train())
        torch.testing.assert_close(fewer(x), expected, rtol=0, atol=1e-5)
    assert network.training and not fewer.training


NEEDS_ONNX = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs sr_nas[onnx]")


@NEEDS_ONNX
@pytest.mark.parametrize("tile", [None, 16])
def test_onnx_runtime_gives_what_pytorch_gives_within_a_level(tile: int | None) -> None:
    network, lr = tiny_imdn(), np.random.default_rng(0).integers(0, 256, (37, 29, 3), np.uint8)
    exact = upscale_image(network, lr, tile=tile, device="cpu").astype(int)
    for engine in ("onnxruntime", "torch"):
        found = upscale_image(for_inference(network, engine, "cpu")[0], lr, tile=tile, device="cpu")
        assert np.abs(found.astype(int) - exact).max() <= 1
    assert "channels_last" not in str(network.head.weight.stride()) and network.head.weight.is_contiguous(), "left as it was"


@NEEDS_ONNX
@pytest.mark.parametrize("make", [tiny_imdn, tiny_dlsr])
def test_a_recorded_graph_is_the_network_at_sizes_that_it_was_not_recorded_at(make: Callable[[], SRNetwork]) -> None:
    network = make()
    session, difference = record_onnx(network, "x")
    assert difference < 1e-5
    for size in ((1, 3, 1, 1), (2, 3, 5, 50), (1, 3, 14, 16)):
        x = torch.rand(size)
        with torch.inference_mode():
            torch.testing.assert_close(session(x), network(x), rtol=0, atol=1e-5)


class Branching(IMDN):
    """Adds something to large images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (0.1 if x.shape[2] > 20 else 0)


@NEEDS_ONNX
def test_a_recorded_graph_that_lacks_a_branch_is_refused() -> None:
    with pytest.raises(UserError, match=r"x differs from PyTorch by 0\.1 on an input of 1x3x17x31"):
        record_onnx(Branching(2, nf=16, num_blocks=1), "x")


class FakeSession:
    """Takes the place of an export, which takes seconds."""

    runtime, in_torch = "ONNX Runtime 1.0", False

    def on(self, device: str) -> None:
        if device != "cpu":
            raise UserError(f"does not run on {device}")


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "EXPORTERS", {lambda network, name: (FakeSession(), 0.0): optimize.EXPORTERS[record_onnx]})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize(
    ("megapixels", "words", "runtime"),
    [
        (0.57, {}, "PyTorch"),
        (0.58, {}, "ONNX Runtime 1.0"),
        (0.58, {"precision": "bf16"}, "PyTorch"),
        (0.58, {"device": "meta"}, "PyTorch"),
    ],
)
def test_auto_exports_when_two_cores_work_for_seconds(
    megapixels: float, words: dict[str, Any], runtime: str, quick_export: None
) -> None:
    """IMDN x2 has 694,404 parameters: 0.576 megapixels are 4e11 multiply-adds."""
    network, name = for_inference(IMDN(2), "auto", words.pop("device", "cpu"), pixels=megapixels * 1e6, **words)
    assert name.startswith(runtime) and isinstance(network, RuntimeNetwork) is (runtime != "PyTorch")


def test_what_the_quick_exporter_refuses_the_thorough_one_takes_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: SRNetwork, name: str) -> None:
        raise UserError("it branches")

    monkeypatch.setattr(optimize, "EXPORTERS", {refuse: 1e9, lambda network, name: (FakeSession(), 0.0): 1e12})
    threads, weights = torch.get_num_threads(), sum(parameter.numel() for parameter in tiny_imdn().parameters())
    names = [for_inference(tiny_imdn(), "auto", "cpu", pixels=work * threads / weights)[1] for work in (0.9e9, 0.9e12, 1.1e12)]
    pytorch = f"PyTorch {torch.__version__}"
    assert names == [pytorch, f"{pytorch} (not ONNX Runtime: it branches)", "ONNX Runtime 1.0"]
    assert for_inference(tiny_imdn(), "onnxruntime", "cpu")[1] == "ONNX Runtime 1.0"


def test_auto_says_why_it_takes_pytorch_and_a_named_engine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    network = tiny_imdn()
    executed, name = for_inference(network, "auto", "cpu")
    assert "(not ONNX Runtime: onnx and onnxscript and onnxruntime must be installed" in name and "pip install" in name
    x = torch.rand(1, 3, 9, 8)
    with torch.inference_mode():
        torch.testing.assert_close(executed(x), network(x), rtol=0, atol=1e-5)
    assert executed is not network and norms(executed) == 0
    with pytest.raises(UserError, match=r"--engine onnxruntime: .* must be installed for ONNX: pip install 'sr_nas\[onnx\]'"):
        for_inference(network, "onnxruntime", "cpu")


def test_engines_that_cannot_run_a_network_are_refused(quick_export: None) -> None:
    with pytest.raises(UserError, match="does not run in bf16: use --engine torch"):
        for_inference(tiny_imdn(), "onnxruntime", "cpu", "bf16")
    with pytest.raises(UserError, match="--engine onnxruntime: does not run on mps"):
        for_inference(tiny_imdn(), "onnxruntime", "mps")
    graph, name = for_inference(tiny_imdn(), "onnxruntime", "cpu")
    assert for_inference(graph, "auto", "cpu") == (graph, name)
    with pytest.raises(UserError, match=r"--engine torch: this file is run by ONNX Runtime 1\.0"):
        for_inference(graph, "torch", "cpu")
