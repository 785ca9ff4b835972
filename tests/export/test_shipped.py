"""Networks by name: of the package's own folder, here of one with small networks of random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import sr_nas
from sr_nas.analysis.model_table import BenchmarkOptions, load_entries
from sr_nas.errors import UserError
from sr_nas.export.model import SHIPPED, load_structure, model_file, shipped, shipped_networks
from sr_nas.export.network_file import save_network
from sr_nas.networks.imdn import IMDN
from sr_nas.options.load import check_options
from sr_nas.options.sections import Distill
from tests.export.named import NAMES, make_named
from tests.jobs.processes import run


@pytest.fixture(autouse=True)
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_named(tmp_path / "models", monkeypatch)


def test_names_are_files_of_the_folder_by_scale(named: Path) -> None:
    assert shipped() == list(NAMES)
    network = sr_nas.load_network("fast_x2")
    again = sr_nas.load_network(named / "fast_x2.safetensors")
    assert (network.scale, network.training) == (2, False)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert load_structure(Path("x4"), scale=4).settings()["scale"] == 4


@pytest.mark.parametrize("name", ["fast_x3", "X4", "x22"])
def test_a_wrong_name_lists_the_names(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' does not exist .*did you mean '.*x.'\? Networks by name: fast_x2, x2, x4\."):
        sr_nas.load_network(name)


def test_a_missing_file_is_no_name(named: Path) -> None:
    for path in ("x2.pth", "nowhere/x2"):
        with pytest.raises(UserError, match=f"^{path} does not exist"):
            sr_nas.load_network(path)
    shutil.rmtree(named)
    with pytest.raises(UserError, match="No network ships with this copy of it: name a file"):
        sr_nas.load_network("x2")
    assert shipped_networks() == {}


def test_a_file_or_folder_comes_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "x4", IMDN(3, nf=16, num_blocks=1))
    assert model_file("x4") == Path("x4") and sr_nas.load_network("x4").scale == 3
    assert f"x4 is taken from {tmp_path / 'x4'}, and not from the networks" in capsys.readouterr().err


def test_tables_exports_and_teachers_take_a_name(tmp_path: Path) -> None:
    raw = {"name": "x", "datasets": {"sample": "sample"}, "models": {"a": {"path": "x2"}, "b": {"path": "fast_x2"}}}
    _, *entries = load_entries(check_options(BenchmarkOptions, raw, "here"))
    assert [entry.scale for entry in entries] == [2, 2] and entries[0].identity != entries[1].identity
    with pytest.raises(UserError, match=r"models\.a: 'x9' does not exist and is no network"):
        load_entries(check_options(BenchmarkOptions, raw | {"models": {"a": {"path": "x9"}}}, "here"))
    with pytest.raises(UserError, match=r"file or folder 'x9\.pth' does not exist"):
        check_options(BenchmarkOptions, raw | {"models": {"a": {"path": "x9.pth"}}}, "here")
    run("export", "--model", "x2", "-o", tmp_path / "x2.pth", "--no_card")
    assert sr_nas.load_network(tmp_path / "x2.pth").scale == 2
    assert Distill.model_validate({"type": "L1Loss", "teacher": "x2"}).teacher == "x2"


@pytest.mark.skipif(not shipped(), reason="no network ships yet")
def test_what_ships_is_whole_and_small() -> None:
    files = list(SHIPPED.iterdir())
    assert sum(file.stat().st_size for file in files) < 2e6
    assert {file.suffix for file in files} == {".safetensors", ".md"}
    for name in {file.stem for file in files}:
        assert sr_nas.load_network(SHIPPED / f"{name}.safetensors").scale == int(name[-1])
        assert (SHIPPED / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}\n")
