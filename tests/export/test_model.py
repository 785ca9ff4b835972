"""What a training starts from, in whatever file and wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.export.model import load_model, load_pretrained
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_training_starts_from_our_tensors_in_any_wrapper(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    source, network, file = IMDN(2, 16, 1), IMDN(2, 16, 1), tmp_path / "net_g_4.pth"
    tensors = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save({wrapper: tensors} if wrapper else tensors, file)
    assert load_pretrained(network, file) == f"starting from {file}: {len(tensors)} of {len(tensors)} tensors fit"
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_of_several_networks_one_is_taken_and_named(tmp_path: Path) -> None:
    file, network = tmp_path / "net_g_4.pth", IMDN(2, 16, 1)
    tensors = {name: {"head.bias": torch.full((16,), value)} for name, value in (("params", 1.0), ("params_ema", 2.0))}
    torch.save(tensors, file)
    assert "(params_ema of it; it also has params): 1 of" in load_pretrained(network, file, strict=False)
    assert bool((network.head.bias == 2).all())
    assert "(params of it; it also has params_ema): 1 of" in load_pretrained(network, file, "params", strict=False)
    assert bool((network.head.bias == 1).all())


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ({"net_a": {"w": torch.ones(1)}, "net_b": {"w": torch.ones(1)}}, None, "bare or under .*found net_a, net_b"),
        ({"params": {"w": torch.ones(1)}}, "params_ema", "under 'params_ema'; found params"),
        ({"params": {"w": 1.0}}, None, "tensors are expected"),
    ],
)
def test_a_file_that_cannot_be_decided_says_what_is_in_it(content: Any, key: str | None, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=words):
        load_pretrained(IMDN(2, 16, 1), tmp_path / "x.pth", key)


def test_weights_that_are_not_finite_start_nothing(tmp_path: Path) -> None:
    network = IMDN(2, 16, 1)
    torch.save({name: torch.full_like(tensor, torch.nan) for name, tensor in network.state_dict().items()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth is of a diverged training: head\.weight is not finite"):
        load_pretrained(network, tmp_path / "x.pth")


@pytest.mark.parametrize(
    "network",
    [IMDN(3, 16, 2, "conv_3x3,dsconv_5x5,conv_3x3_bn,conv_5x5"), DLSR(2, 16, 3, "conv_3x3,sep_conv_3x3,dil_conv_5x5")],
    ids=["imdn", "dlsr"],
)
def test_what_basicsr_saves_of_our_network_is_a_model(network: Any, tmp_path: Path) -> None:
    """Sizes are read off the tensors, the genotype is named."""
    file, x = tmp_path / "net_g_9.pth", torch.rand(1, 3, 8, 8)
    torch.save({"params": network.state_dict(), "params_ema": network.state_dict()}, file)
    loaded = load_model(file, network.arch.lower(), network.genotype)
    assert torch.equal(loaded(x), network.eval()(x)) and loaded.settings() == network.settings()
    with pytest.raises(UserError, match="does not fit" if network.arch == "IMDN" else "not which cells feed cells 3 to 3"):
        load_model(file, network.arch.lower())
