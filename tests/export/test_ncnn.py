"""ncnn's files, run by ncnn, against PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.ncnn import _InLayersOfNcnn, export_ncnn
from sr_nas.export.network_file import save_network
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.networks.plain import PLAIN
from tests.export.networks import tiny_dlsr, tiny_imdn
from tests.jobs.processes import run

MISSING = [name for name in ("ncnn", "pnnx") if importlib.util.find_spec(name) is None]
needs_ncnn = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: pip install 'sr_nas[ncnn]'")


def plain(names: str = "conv_3x3_2,none", activation: str = "leaky_relu", scale: int = 2) -> PLAIN:
    torch.manual_seed(0)
    blocks = (names.count(",") + 1) // 2
    return PLAIN(scale, nf=8, num_blocks=blocks, activation=activation, genotype=names).eval()  # type: ignore[arg-type]


def by_ncnn(graph: Path, x: Tensor) -> Tensor:
    import ncnn

    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    assert net.load_param(str(graph)) == net.load_model(str(graph.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x[0].numpy()).clone())
    return torch.from_numpy(np.array(extractor.extract("out0")[1]))[None]


@pytest.mark.parametrize("build", [plain, tiny_imdn, tiny_dlsr], ids=["plain", "imdn", "dlsr"])
def test_what_is_said_in_layers_of_ncnn_is_the_same_to_the_bit(build: type[SRNetwork]) -> None:
    network, x = build(), torch.rand(2, 3, 17, 22)
    with torch.inference_mode():
        expected = network(x)
        with _InLayersOfNcnn():
            assert torch.equal(network(x), expected)


@needs_ncnn
@pytest.mark.slow
def test_ncnn_gives_what_pytorch_gives_at_any_size(tmp_path: Path) -> None:
    network = plain()
    save_network(tmp_path / "net.safetensors", network)
    words = ("export", "--model", tmp_path / "net.safetensors", "-o", tmp_path / "x.ncnn.param")
    printed = run(*words)
    assert "weights in float32; differs from the network by at most" in printed and "on 3 sizes" in printed
    for size in ((1, 3, 1, 1), (1, 3, 5, 33), (1, 3, 21, 16)):
        x = torch.rand(size)
        with torch.inference_mode():
            torch.testing.assert_close(by_ncnn(tmp_path / "x.ncnn.param", x), network(x), rtol=0, atol=1e-5)
    card = (tmp_path / "x.ncnn.md").read_text()
    assert 'net.load_param("x.ncnn.param")\nnet.load_model("x.ncnn.bin")' in card and "| ncnn | " in card
    assert "sr-nas inference" not in card
    (tmp_path / "x.ncnn.param").unlink()
    assert "x.ncnn.bin exists" in run(*words, code=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.safetensors", "x.ncnn.bin", "x.ncnn.md"]


NETWORKS = {
    "imdn": tiny_imdn,
    "imdn x4": lambda: IMDN(4, nf=16, num_blocks=2, genotype="dil_dsconv_5x5,dsconv_5x5,conv_3x3_bn,conv_5x5").eval(),
    "plain, separable": lambda: plain("dwconv_7x7,pa,bsconv_3x3_2,spab,skip,pa", "silu"),
    "plain, partial": lambda: plain("pconv_3x3,esa,conv_3x3_3,none", "gelu", 3),
    "dlsr": lambda: DLSR(2, nf=8, num_cells=3, genotype="sep_conv_3x3,dil_conv_5x5,conv_1x1").eval(),
}


@needs_ncnn
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_ours_is_converted(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]()
    graph, weights, line = export_ncnn(network, name)
    (tmp_path / "net.param").write_bytes(graph)
    (tmp_path / "net.bin").write_bytes(weights)
    assert ("images need 15 pixels a side" in line) == (name in ("dlsr", "plain, partial"))
    for size in ((1, 3, 15, 15), (1, 3, 16, 61), (1, 3, 57, 33)):
        x = torch.rand(size)
        with torch.inference_mode():
            torch.testing.assert_close(by_ncnn(tmp_path / "net.param", x), network(x), rtol=0, atol=1e-4)


@needs_ncnn
@pytest.mark.slow
def test_float16_takes_half_the_space() -> None:
    weights = {half: export_ncnn(tiny_imdn(), "net", half) for half in (False, True)}
    assert len(weights[True][1]) == pytest.approx(len(weights[False][1]) / 2, rel=0.1)
    assert "weights in float16" in weights[True][2]


@needs_ncnn
@pytest.mark.slow
def test_what_ncnn_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(self: object, func: Callable[..., object], types: object, args: Any = (), kwargs: Any = None) -> object:
        return func(*args, **(kwargs or {}))

    monkeypatch.setattr(_InLayersOfNcnn, "__torch_function__", unchanged)
    with pytest.raises(UserError, match=r"net does not run on an input of 1x3x17x31.*layer torch\.repeat_interleave not exists"):
        export_ncnn(plain(), "net")


@needs_ncnn
def test_a_converter_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_nas.export.ncnn.MOST_SECONDS", 1e-3)
    with pytest.raises(UserError, match=r"pnnx had not ended after 0\.001 s, and was stopped"):
        export_ncnn(tiny_imdn(), "net")


def test_without_the_packages_one_sentence_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^pnnx and ncnn must be installed for ncnn: pip install 'sr_nas\[ncnn\]'$"):
        export_ncnn(plain(), "net")
