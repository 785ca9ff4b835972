"""What a training starts from, in whatever file and wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sr_nas.errors import UserError
from sr_nas.export.model import load_model, load_pretrained
from sr_nas.export.network_file import describe_network, save_network
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


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.", "net_g.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", [".pth", ".safetensors", ".PTH", ""])
def test_prefixes_and_suffixes_of_other_tools_do_not_matter(prefix: str, kind: str, tmp_path: Path) -> None:
    source, network, file = IMDN(2, 16, 1), IMDN(2, 16, 1), tmp_path / f"net{kind}"
    tensors = {prefix + name: tensor for name, tensor in source.state_dict().items()} | {"n_averaged": torch.tensor(3)}
    if kind == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"model_state_dict": tensors, "epoch": 3}, file)
    load_pretrained(network, file)
    released = load_model(file, "imdn", network.genotype)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]) and torch.equal(tensor, released.state_dict()[name])
    with pytest.raises(UserError, match="Name it with --arch"):
        load_model(file)
    with pytest.raises(UserError, match="Name it with --arch too"):
        load_model(file, genotype=network.genotype)


def test_a_file_that_describes_itself_takes_no_architecture(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.pth"):
        save_network(tmp_path / name, IMDN(2, 16, 1))
        with pytest.raises(UserError, match=f"{name} describes its network itself: leave --arch and --genotype out"):
            load_model(tmp_path / name, "imdn")


def test_names_that_lie_about_the_content(tmp_path: Path) -> None:
    network = IMDN(2, 16, 1).eval()
    for true, wrong in ((".pth", "x.safetensors"), (".safetensors", "y.pth"), (".pth", "z.onnx"), (".safetensors", "w.pt2")):
        save_network(tmp_path / f"net{true}", network)
        (tmp_path / wrong).write_bytes((tmp_path / f"net{true}").read_bytes())
        assert torch.equal(load_model(tmp_path / wrong).state_dict()["head.weight"], network.head.weight)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_blocks": 10**8}, "far larger than its file"),
        ({"nf": 10**6}, "missing or of another shape"),
        ({"scale": -1}, "IMDN"),
        ({"genotype": {}}, "genotype"),
        ({"unknown": 1}, "cannot be built from its settings"),
    ],
)
def test_settings_that_the_tensors_do_not_bear_out_take_no_memory(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    network = IMDN(2, 16, 1)
    described = describe_network(network) | {"settings": json.dumps(network.settings() | settings)}
    save_file(network.state_dict(), tmp_path / "x.safetensors", described)
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "x.safetensors")


def test_tensors_that_the_file_has_no_values_for(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(1).expand(2**40)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="tensors are expected"):
        load_pretrained(IMDN(2, 16, 1), tmp_path / "x.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", [".safetensors", ".pth", ".onnx", ".pt2"])
def test_a_network_that_is_not_finite_is_not_written(kind: str, value: float, tmp_path: Path) -> None:
    network = IMDN(2, 16, 1).eval()
    network.tail.bias.data[0] = value
    with pytest.raises(UserError, match=r"net\.\w+ is not written: tail\.bias of the network is not finite"):
        save_network(tmp_path / f"net{kind}", network)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ({"net_a": {"w": torch.ones(1)}, "net_b": {"w": torch.ones(1)}}, None, "bare or under .*found net_a, net_b"),
        ({"params": {"w": torch.ones(1)}}, "params_ema", "under 'params_ema'; found params"),
        ({"params": {"w": 1.0}}, None, r"plain tensors are expected, .*; found params, and in it w \(float\)\."),
        ({"state_dict": {"model": {"w": torch.ones(1)}}}, None, r"found state_dict, and in it model \(dict\)\."),
        ({"params": {}}, None, "found params, and in it nothing"),
        ({"params": {"w": 1.0}}, "params_ema", "under 'params_ema'; found params"),
        ({"params": {"w": torch.ones(2, 2).to_sparse()}}, "params", r"under 'params'; found params, and in it w \(Tensor\)"),
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
