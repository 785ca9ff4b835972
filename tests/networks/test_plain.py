"""PLAIN outside of a search: tiles, ONNX at any size, released file formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr_nas.export.network_file import load_network, save_network
from sr_nas.inference.optimize import for_inference
from sr_nas.inference.tiles import pools_globally
from sr_nas.networks.plain import (
    PLAIN,
    PLAIN_ATTENTIONS,
    PLAIN_GATES,
    PLAIN_OPERATIONS,
    PartialConv,
    PixelAttention,
    SpatialAttention,
)
from tests.inference.tensors import upscale


def all_candidates(attentions: list[str], scale: int = 2) -> PLAIN:
    """Every body, with the attentions in turns."""
    torch.manual_seed(0)
    names = [name for place, body in enumerate(PLAIN_OPERATIONS) for name in (body, attentions[place % len(attentions)])]
    return PLAIN(scale, nf=8, num_blocks=len(PLAIN_OPERATIONS), genotype=names).eval()


def test_tiles_equal_the_whole_image_but_with_esa() -> None:
    network, lr = all_candidates(list(PLAIN_GATES)), torch.rand(1, 3, 40, 33)
    assert not pools_globally(network)
    whole = upscale(network, lr, device="cpu")
    torch.testing.assert_close(upscale(network, lr, tile=9, device="cpu"), whole, atol=2e-6, rtol=0)
    assert pools_globally(PLAIN(2, nf=8, num_blocks=1, genotype="conv_3x3_2,esa"))


@pytest.mark.parametrize("scale", [2, 3])
def test_onnx_runtime_gives_the_same_at_any_size(scale: int) -> None:
    pytest.importorskip("onnxruntime")
    network = all_candidates(PLAIN_ATTENTIONS.names(), scale)
    graph, _ = for_inference(network, "onnxruntime", torch.device("cpu"))
    for size in ((4, 5), (16, 15), (31, 47)):
        x = torch.rand(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(graph(x), network(x), atol=2e-6, rtol=0)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_says_all_that_builds_it(suffix: str, tmp_path: Path) -> None:
    network = PLAIN(3, num_blocks=2, activation="silu", genotype="12,bsconv_3x3_2,pa,skip,spab").eval()
    save_network(tmp_path / f"network{suffix}", network)
    loaded, x = load_network(tmp_path / f"network{suffix}"), torch.rand(1, 3, 6, 7)
    assert loaded.settings() == network.settings() and loaded.settings()["nf"] == 12
    assert torch.equal(loaded(x), network(x))


def test_attentions_with_parameters_by_hand() -> None:
    torch.manual_seed(0)
    x, features = torch.randn(2, 1, 16, 17, 17, dtype=torch.float64)
    total, pixel, spatial = x + features, PixelAttention(16).double(), SpatialAttention(16).double()
    logits = torch.einsum("oi,nihw->nohw", pixel.gate.weight.flatten(1), total) + pixel.gate.bias.view(-1, 1, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(pixel((x, features)), total / 2 + total / (1 + torch.exp(-logits)))
    torch.testing.assert_close(spatial((x, features)), total / 2 + spatial.gate(total))


def test_every_fourth_channel_is_convolved_and_the_others_pass() -> None:
    torch.manual_seed(0)
    layer, x = PartialConv(12), torch.rand(2, 12, 6, 5)
    expected = x.clone()
    expected[:, ::4] = layer.conv(x[:, ::4])
    assert torch.equal(layer(x), expected)
