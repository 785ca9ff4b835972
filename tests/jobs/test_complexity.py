"""``complexity``: what it counts, and what it says of a wrong network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from sr_nas.complexity.costs import count_params, per_layer
from sr_nas.export.network_file import save_network
from sr_nas.jobs.complexity import ROWS, _blocks_once
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_SEARCH, run


def counted(*words: object) -> dict[str, int]:
    costs: dict[str, int] = json.loads(run("complexity", *words, "--json"))
    return costs


@pytest.fixture
def only_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out multiply-adds, which take a second."""
    monkeypatch.setattr(
        "sr_nas.jobs.complexity.complexity_of",
        lambda network: {"params": count_params(network)},
    )


def test_the_published_network() -> None:
    found = counted("--arch", "imdn", "--scale", "4")
    assert found == {"params": 715_176, "macs_lr_1280x720": 654_527_695_872, "macs_hr_1280x720": 40_907_983_872}


@pytest.mark.usefixtures("only_parameters")
def test_a_genotype_in_words_and_in_a_file(tmp_path: Path) -> None:
    names = "dsconv_3x3,conv_3x3,dsconv_3x3_bn,dsconv_5x5"
    (tmp_path / "genotype.json").write_text(json.dumps(names.split(",")))
    for genotype in (names, tmp_path / "genotype.json"):
        assert counted("--arch", "IMDN", "--genotype", genotype)["params"] == 349_224


def test_the_table_of_layers() -> None:
    table = run("complexity", "--arch", "imdn", "--nf", "16", "--num_blocks", "1")
    assert "MACs, LR input 1280x720" in table and "head" in table
    names = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    table = run("complexity", "--arch", "nasbench201", "--genotype", names)
    assert "stages.2.0-4.edges.3<-2.1" in table and "5 x 36,864" in table and "\u2026" not in table


@pytest.mark.usefixtures("only_parameters")
def test_a_drawing_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--arch", "imdn", "--nf", "8", "--num_blocks", "1", "--json", "--draw"]
    for file, begin in ((tmp_path / "net.png", b"\x89PNG"), (tmp_path / "net.svg", b"<?xml")):
        run("complexity", *words, file)
        assert file.read_bytes().startswith(begin)
        assert "--overwrite replaces it" in run("complexity", *words, file, code=1)
    (tmp_path / "net.png").write_text("old")
    run("complexity", *words, tmp_path / "net.png", "--overwrite")
    assert Image.open(tmp_path / "net.png").size[1] > 500
    run("complexity", "--space", TINY_SEARCH, "--draw", tmp_path / "space.png", "--json")
    monkeypatch.setattr(IMDN, "drawing", lambda *_: [])
    assert "no method drawing()" in run("complexity", *words, tmp_path / "no.png", code=1)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["net.png", "space.png"]


@pytest.mark.usefixtures("only_parameters")
def test_equal_blocks_are_one_and_the_rows_add_up() -> None:
    network = IMDN(2, nf=16, num_blocks=3)
    rows = _blocks_once(per_layer(network))
    assert [times for times, name, *_ in rows if name.startswith("blocks.0-2.")] == ["3 x "] * 7
    assert not any(times for times, name, *_ in rows if not name.startswith("blocks."))
    assert sum(int(times[:-3] or 1) * params for times, _, _, params, _ in rows) == count_params(network)
    different = [("a.0.x", "Conv2d", 1, 2), ("a.1.x", "Conv2d", 1, 3), ("a.2.x", "Conv2d", 1, 3), ("b.0.x", "Conv2d", 1, 3)]
    different += [("a.4.x", "Conv2d", 1, 2), ("a.5.x", "Conv2d", 1, 2)]
    assert [row[:2] for row in _blocks_once(different)] == [("3 x ", "a.0,4,5.x"), ("2 x ", "a.1-2.x"), ("", "b.0.x")]


@pytest.mark.long
def test_settings_of_the_network() -> None:
    """A separable convolution has twice nf * kernel^2 + nf^2 values; here in two cells."""
    words = ["--arch", "dlsr", "--scale", "2", "--nf", "18", "--num_cells", "2", "--genotype"]
    separable = sum(2 * (18 * kernel**2 + 18**2) for kernel in (3, 5, 5))
    dense = counted(*words, "conv_3x3,conv_3x3,conv_3x3")["params"]
    found = counted(*words, "sep_conv_3x3,sep_conv_5x5,sep_conv_5x5")["params"]
    assert found - dense == 2 * (separable - 3 * 18 * 18 * 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "imdm"], "did you mean 'IMDN'"),
        (["--arch", "imdn", "--genotype", "conv3x3,a,b,c"], "did you mean 'conv_3x3'"),
        (["--arch", "dlsr", "--genotype", "sep_conv_3x3,sep_conv_3x3,sep_conv_9x9"], "Allowed: conv_1x1"),
        (["--arch", "dlsr", "--num_cell", "4"], "--num_cell: unknown key - did you mean 'num_cells'?"),
        (["--arch", "dlsr", "--nf", "6"], "--nf: Input should be greater than or equal to 8"),
        (["--arch", "dlsr", "--nf"], "come in pairs"),
        (["--arch", "dlsr", "--nf", "["], "'--nf [', line 1, column 2: expected"),
        (["--arch", "dlsr", "--nf", "8", "--nf=10"], "--nf is given twice"),
        (["--model", "released.pt"], "released.pt does not exist"),
        (["--model", REPOSITORY / "options" / "paper" / "train_dlsr.yml", "--scale", "3"], "upscales by 2"),
        (["--compare", REPOSITORY / "options" / "paper" / "train_dlsr.yml", "--scale", "3"], "upscales by 2"),
        (["--compare", "--nf", "8"], "--nf describes a network that --arch names"),
        (["--arch", "imdn", "--draw", "net.jpg"], "a drawing is a .png or an .svg file"),
        (["--compare", "--draw", "net.png"], "--draw draws one network"),
        (["--compare", "--latency"], "--latency times one network"),
        (["--model", "gone.safetensors"], "gone.safetensors does not exist"),
        (["--model", REPOSITORY / "options" / "sac_dlsr.yml"], "no option file of a training"),
    ],
)
def test_what_is_wrong_is_named(words: list[object], message: str) -> None:
    assert message in " ".join(run("complexity", *words, code=1).split())


@pytest.mark.usefixtures("only_parameters")
def test_whatever_holds_a_network(tmp_path: Path) -> None:
    network = DLSR(3, 8, 3, "conv_1x1,conv_3x3,sep_conv_3x3,cell1+cell2")
    expected = sum(parameter.numel() for parameter in network.parameters())
    save_network(tmp_path / "net.safetensors", network)
    search = tmp_path / "search"
    search.mkdir()
    settings = network.settings()
    block = {"scale": settings.pop("scale"), "network_g": {"type": "DLSR"} | settings}
    (search / "network_g.yml").write_text(yaml.safe_dump(block))
    for path in (tmp_path / "net.safetensors", search, search / "network_g.yml"):
        assert counted("--model", path)["params"] == expected
    (tmp_path / "named.json").write_text(json.dumps(IMDN(2).genotype.to_json()))
    assert counted("--model", tmp_path / "named.json")["params"] == 694_404
    (tmp_path / "deeper.json").write_text(json.dumps(DLSR(2, 8, 7, ["conv_7x7"] * 3).genotype.to_json()))
    printed = run("complexity", "--model", tmp_path / "deeper.json", code=1)
    assert "no choice 'inputs7'" in printed and "name the folder of its search instead" in " ".join(printed.split())
    torch.save({"params": network.state_dict()}, tmp_path / "released.pt")
    assert f"first make a file that does: tools/export.py --model {tmp_path}" in " ".join(
        run("complexity", "--model", tmp_path / "released.pt", code=1).split()
    )
    (tmp_path / "bare.json").write_text(json.dumps(["conv_7x7"] * 3))
    assert "does not name its architecture" in run("complexity", "--model", tmp_path / "bare.json", code=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scale: 2\nnetwork_g: IMDN", None),
        ("scale: 2\nnetwork_g: {type: IMDN, nf: 64}", None),
        ("scale: two\nnetwork_g: DLSR", "scale: Input should be 2, 3 or 4"),
        ("scale: 7\nnetwork_g: DLSR", "scale: Input should be 2, 3 or 4"),
        ("network_g: DLSR", "scale: this key is required"),
        ("scale: 2\nnetwork_g: {type: DLRS}", "did you mean 'DLSR'"),
        ("scale: 2\nnetwork_g: {type: DLSR, num_cell: 4}", "did you mean 'num_cells'"),
    ],
)
@pytest.mark.usefixtures("only_parameters")
def test_option_files_are_read_as_by_a_training(text: str, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "net.yml").write_text(text)
    printed = run("complexity", "--model", tmp_path / "net.yml", "--json", code=0 if message is None else 1)
    if message is None:
        assert json.loads(printed)["params"] == 694_404
    else:
        assert message in printed


def test_the_table_of_the_paper_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(tmp_path / "net.safetensors", DLSR(2, 8, 2, ["conv_1x1"] * 3))
    monkeypatch.setattr("sr_nas.jobs.complexity.ROWS", ROWS[3:4])
    costs = {"macs_lr_1280x720": 216_160_000_000, "macs_hr_1280x720": 1}
    monkeypatch.setattr("sr_nas.jobs.complexity.complexity", lambda network: {"params": count_params(network)} | costs)
    footprint = {"receptive_field": None, "peak_activation_bytes": 123_400_000}
    monkeypatch.setattr("sr_nas.jobs.complexity.footprint", lambda network: footprint)
    monkeypatch.chdir(tmp_path)
    table = run("complexity", "--compare", "net.safetensors")
    assert "264,732" in table and "216.16 G" in table and "net.safetensors" in table
    assert " all " in table and "123 MB" in table
    table = run("complexity", "--compare", "net.safetensors", "--format", "markdown")
    assert "| network | scale |" in table and "| 216.16 G |" in table
