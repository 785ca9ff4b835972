"""Networks of others, which spandrel opens, in our commands: spandrel itself is the oracle."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr_nas.bridge.basicsr import PREFIX as BASICSR
from sr_nas.complexity.costs import complexity, count_macs, count_params
from sr_nas.errors import UserError
from sr_nas.export.model import load_model
from sr_nas.export.network_file import save_network
from sr_nas.inference.images import upscale_image
from sr_nas.inference.tiles import pools_globally, tile_overlap
from sr_nas.registry import NETWORKS
from sr_nas.super_resolution import SuperResolution
from tests.jobs.processes import run

spandrel = pytest.importorskip("spandrel", reason="spandrel is not installed: pip install 'sr_nas[spandrel]'")
folded = importlib.import_module("sr_nas.bridge.guests")._folded


def built(name: str, **options: Any) -> nn.Module:
    """A network of spandrel, in training mode, with random weights: those of a fresh one are zero in places."""
    torch.manual_seed(0)
    architecture = {"RealPLKSR": "PLKSR"}.get(name, name)
    network: nn.Module = getattr(getattr(spandrel.architectures, architecture), name)(**options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return network


def compact(scale: int = 2, channels: int = 3) -> nn.Module:
    return built("Compact", num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale)


def span(features: int = 12, scale: int = 2) -> nn.Module:
    return built("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=features, upscale=scale)


def safmn() -> nn.Module:
    return built("SAFMN", dim=8, n_blocks=1, upscaling_factor=4)


def swinir() -> nn.Module:
    sizes: dict[str, Any] = {"img_size": 16, "window_size": 8, "depths": [2], "num_heads": [2], "embed_dim": 8}
    return built("SwinIR", mlp_ratio=2, upscale=2, upsampler="pixelshuffledirect", **sizes)


GUESTS: dict[str, Callable[[], nn.Module]] = {
    "spandrel.Compact.SRVGGNetCompact": compact,
    "spandrel.SPAN": span,
    "spandrel.SAFMN": safmn,
    "spandrel.SwinIR": swinir,
    "spandrel.PLKSR.RealPLKSR": lambda: built("RealPLKSR", dim=16, n_blocks=1, kernel_size=7, upscaling_factor=3),
    "spandrel.RCAN": lambda: built("RCAN", n_resgroups=1, n_resblocks=1, n_feats=16, scale=2),
    "spandrel.ESRGAN.RRDBNet": lambda: built("ESRGAN", num_filters=4, num_blocks=1, scale=4),
}


def saved(network: nn.Module, folder: Path, name: str = "guest.pth") -> Path:
    torch.save({"params_ema": network.state_dict()}, folder / name)
    return folder / name


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("name", GUESTS)
def test_a_guest_gives_what_spandrel_gives(name: str, tmp_path: Path) -> None:
    """At sizes that the network requires and at others, which are padded; and again from a file of ours."""
    file = saved(GUESTS[name](), tmp_path)
    guest, theirs = load_model(file), spandrel.ModelLoader().load_from_file(file)
    assert (guest.arch, guest.scale, guest.genotype.picks) == (name, theirs.scale, ())
    save_network(tmp_path / "ours.safetensors", guest)
    ours = load_model(tmp_path / "ours.safetensors")
    assert (ours.arch, json.dumps(ours.settings())) == (name, json.dumps(guest.settings()))
    for size in ((1, 3, 16, 24), (1, 3, 17, 21), (2, 3, 9, 8)):
        x = torch.rand(size)
        with torch.inference_mode():
            y = guest(x)
            assert y.std() > 0.01, "noise in, no plain colour out"
            torch.testing.assert_close(ours(x), y, rtol=0, atol=1e-5)
            # Spandrel's RCAN changes its input; ours must not have.
            torch.testing.assert_close(y.clamp(0, 1), theirs(x), rtol=0, atol=1e-5)


def test_wrappers_and_prefixes_do_not_matter(tmp_path: Path) -> None:
    network, x = compact(), torch.rand(1, 3, 9, 7)
    save_file(network.state_dict(), tmp_path / "bare.safetensors")
    torch.save({"iter": 7, "state_dict": {f"net_g.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "prefix.ckpt")
    torch.save({f"module.{k}": v.half() for k, v in network.state_dict().items()}, tmp_path / "half.pth")
    with torch.inference_mode():
        for name, most in (("bare.safetensors", 0), ("prefix.ckpt", 0), ("half.pth", 1e-2)):
            torch.testing.assert_close(load_model(tmp_path / name)(x), network(x), rtol=0, atol=most)


def test_span_is_counted_and_runs_with_its_branches_folded(tmp_path: Path) -> None:
    """481 K parameters at x2 and 498 K at x4 as published (Wan et al. 2024), with 52 channels."""
    for scale, total in ((2, 481_324), (4, 498_208)):
        assert count_params(load_model(saved(span(52, scale), tmp_path))) == total
    guest, c, out = load_model(saved(span(), tmp_path)), 12, 12
    weights = 9 * 3 * c + 19 * 9 * c * c + 4 * c * c + 9 * c * out  # no biases, which are no multiply-adds
    assert count_macs(guest, (20, 30))[0][""] == weights * 20 * 30
    network, x = span().double(), torch.rand(1, 3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        branches = network(x)  # of three for each convolution, in training mode
        torch.testing.assert_close(folded(network).eval()(x), branches, rtol=0, atol=1e-10)


def test_tiles_of_a_chain_of_convolutions_equal_the_whole_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 34, 3), np.uint8)
    for name, reach in (("spandrel.Compact.SRVGGNetCompact", 4), ("spandrel.SPAN", 21), ("spandrel.ESRGAN.RRDBNet", 19)):
        guest: Any = load_model(saved(GUESTS[name](), tmp_path))
        assert not pools_globally(guest)
        assert tile_overlap(guest) == reach
    guest = load_model(saved(compact(), tmp_path))
    whole = upscale_image(guest, pixels, device="cpu").astype(int)
    difference = np.abs(upscale_image(guest, pixels, tile=11, device="cpu") - whole)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001, "a value may round the other way"
    guest._field = 4
    assert np.abs(upscale_image(guest, pixels, tile=11, device="cpu") - whole).max() > 1


@pytest.mark.slow
def test_what_cannot_be_counted_is_measured_and_named(photos: Path, tmp_path: Path) -> None:
    """Fvcore refuses a product of OmniSR's, whose scores stand in the table all the same."""
    sizes = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "block_num": 1, "res_num": 1, "up_scale": 2, "window_size": 8}
    file = saved(built("OmniSR", **sizes), tmp_path, "omni.pth")
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "plain.bmp", tmp_path / "photos")
    words = ["--model", file, "--model", saved(compact(), tmp_path), "--data", tmp_path / "photos", "--num_gpu", "0"]
    printed = run("evaluate", *words, code=1)
    assert "not measured: omni.pth: fvcore cannot count the multiply-adds of Guest" in printed
    rows = {cells[0]: cells for line in printed.splitlines() if (cells := line.split())}
    assert rows["omni.pth"][2:4] == ["-", "-"] and float(rows["omni.pth"][4]) > 1


@pytest.mark.parametrize("name", ["spandrel.SAFMN", "spandrel.SwinIR", "spandrel.PLKSR.RealPLKSR"])
def test_pools_windows_and_norms_are_said_to_change_tiles(name: str, tmp_path: Path) -> None:
    assert pools_globally(load_model(saved(GUESTS[name](), tmp_path)))


def test_what_is_no_super_resolution_of_rgb_is_refused(tmp_path: Path) -> None:
    for network, words in (
        (compact(scale=1), "spandrel describes as Restoration by 1 of 3 to 3 channels"),
        (compact(scale=8), "as SR by 8 of 3 to 3"),
        (compact(channels=1), "as SR by 2 of 1 to 1"),
    ):
        with pytest.raises(UserError, match=f"guest.pth: it is RealESRGAN Compact, .*{words}.*RGB by 2, 3 or 4 is expected"):
            load_model(saved(network, tmp_path))
    tensors = span().state_dict()
    tensors["block_2.c1_r.sk.weight"] = tensors["block_2.c1_r.sk.weight"][:5]
    torch.save(tensors, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"damaged\.pth: spandrel takes it for SPAN and cannot load it: "):
        load_model(tmp_path / "damaged.pth")


def test_what_spandrel_does_not_know_still_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nn.Conv2d(3, 12, 3).state_dict(), tmp_path / "unknown.pth")
    advice = "unknown.pth does not say which network its tensors are of. Name it with --arch"
    with pytest.raises(UserError, match=f"{advice}.*spandrel does not know them either"):
        load_model(tmp_path / "unknown.pth")
    with pytest.raises(UserError, match=r"spandrel .* has no such class"):
        NETWORKS.get("spandrel.Nothing")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match=rf"{advice}.*pip install 'sr_nas\[spandrel\]'"):
        load_model(tmp_path / "unknown.pth")


def test_released_imdn_is_no_guest(shared: Path) -> None:
    """Spandrel has no IMDN, and takes its tensors for nothing else."""
    with pytest.raises(UserError, match=r"IMDN_x4\.pth does not say .* spandrel does not know them either"):
        load_model(shared / "weights" / "IMDN_x4.pth")


def test_one_of_basicsr_and_of_spandrel_are_one_network(basicsr: Any, tmp_path: Path) -> None:
    sizes = {"num_feat": 8, "num_conv": 2, "act_type": "prelu"}
    ours = NETWORKS.get(f"{BASICSR}SRVGGNetCompact")(scale=2, **sizes).eval()
    guest, x = load_model(saved(ours, tmp_path)), torch.rand(1, 3, 9, 7)
    with torch.inference_mode():
        assert torch.equal(guest(x), ours(x))
    assert complexity(guest) == complexity(ours)


@pytest.mark.long
def test_side_by_side_in_one_table(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(photos / "plain.bmp", tmp_path / "photos")
    guest, words = saved(span(8), tmp_path, "span (2).pth"), ["--data", tmp_path / "photos", "--num_gpu", "0"]
    model = saved(compact(), tmp_path, "compact.pth")
    table = run("evaluate", "--model", guest, "--model", model, *words)
    alone = run("evaluate", "--model", guest, *words, "--json")
    scores = json.loads(alone[alone.index("{") :])["sets"]["photos"]
    rows = {cells[0]: cells[1:] for line in table.splitlines() if (cells := line.split())}
    assert rows["span2.pth"][:2] == ["x2", f"{count_params(load_model(guest)):,}"]
    assert rows["span2.pth"][4] == f"{scores['psnr']:.2f}"
    assert rows["compact.pth"][:2] == ["x2", f"{count_params(load_model(model)):,}"]
    assert "bicubic" in rows and "ms, photos" in table
    assert "--arch is for one --model" in run("evaluate", "--model", guest, "--model", model, *words, "--arch", "imdn", code=1)
    assert "--model: two have the same name" in run("evaluate", "--model", guest, "--model", guest, *words, code=1)
    layers = run("complexity", "--model", guest)
    assert "guest.block_6.c1_r" in layers and "eval_conv" not in layers


def test_a_guest_teaches(tmp_path: Path) -> None:
    section = SimpleNamespace(type="L1Loss", teacher=str(saved(safmn(), tmp_path)), arguments=lambda: {"loss_weight": 1.0})
    loss = SimpleNamespace(type="L1Loss", arguments=dict)
    options: Any = SimpleNamespace(scale=4, train=SimpleNamespace(distill_opt=section, pixel_opt=loss, reparam="none"))
    arguments = SuperResolution().trainer_arguments(options, None, 1, torch.device("cpu"))
    x = torch.rand(2, 3, 12, 12)
    teacher = spandrel.ModelLoader().load_from_file(section.teacher).model.eval()
    with torch.no_grad():
        target = teacher(nn.functional.pad(x, (0, 4, 0, 4), "reflect"))[..., :48, :48]
    assert arguments["distillation"](x, torch.zeros_like(target)).item() == pytest.approx(target.abs().mean().item(), rel=1e-5)
    assert copy.deepcopy(arguments["distillation"].teacher) is not arguments["distillation"].teacher


@pytest.mark.slow
def test_graphs_are_written_where_they_give_what_the_network_gives(tmp_path: Path) -> None:
    x = torch.rand(1, 3, 20, 11)
    guest = load_model(saved(span(), tmp_path))
    for suffix in ("onnx", "pt2"):
        save_network(tmp_path / f"span.{suffix}", guest)
        again = load_model(tmp_path / f"span.{suffix}")
        with torch.inference_mode():
            torch.testing.assert_close(again(x), guest(x), rtol=0, atol=1e-4)
        assert (again.arch, tile_overlap(again)) == ("spandrel.SPAN", 21)
    guest = load_model(saved(safmn(), tmp_path))
    with pytest.raises(UserError, match=r"It is refused|cannot make a graph of any size|cannot write this network"):
        save_network(tmp_path / "safmn.onnx", guest)
    assert not (tmp_path / "safmn.onnx").exists()
