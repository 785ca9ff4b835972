from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sr_nas.export.network_file import load_network, save_network
from sr_nas.networks.imdn import IMDN
from tests.jobs.processes import run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "net.safetensors", IMDN(2, nf=16, num_blocks=1).eval(), {"run": "mine"})
    return tmp_path / "net.safetensors"


def test_an_exported_file_becomes_another_with_its_card(model: Path, tmp_path: Path) -> None:
    file, card = tmp_path / "out" / "net.pth", tmp_path / "out" / "net.md"
    printed = run("export", "--model", model, "-o", file, "--license", "MIT")
    assert "its model card" in printed
    assert "| license | MIT |" in card.read_text() and "| run | mine |" in card.read_text()
    assert "exists" in run("export", "--model", model, "-o", file, code=1)
    card.write_text("my own words")
    again = tmp_path / "out" / "net.safetensors"
    assert "would be kept without it" in run("export", "--model", file, "-o", again, "--license", "MIT", code=1)
    assert not again.exists()
    assert "is kept; --overwrite replaces it" in run("export", "--model", file, "-o", again)
    assert card.read_text() == "my own words"
    assert all(
        torch.equal(load_network(again).state_dict()[name], tensor) for name, tensor in load_network(model).state_dict().items()
    )
    run("export", "--model", file, "-o", again, "--overwrite", "--no_card")
    assert card.read_text() == "my own words"
    run("export", "--model", file, "-o", again, "--overwrite")
    assert "| license | not stated |" in card.read_text()


def test_a_card_tells_the_schedule_of_a_run(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(model.read_bytes())
    (tmp_path / "run" / "options.yml").write_text("train: {total_iter: 12}\nmanual_seed: 5\n")
    (tmp_path / "run" / "history.jsonl").write_text('{"iteration": 9}\n')
    network = load_network(model)
    save_network(tmp_path / "run" / "best.safetensors", network, {"run": "mine", "iteration": 6, "total_iter": 12})
    printed = run("export", "--run", tmp_path / "run", "-o", tmp_path / "x.safetensors")
    assert "trained: run mine, iteration 6, total_iter 12" in printed
    assert "NOTE: It is of iteration 6 of 12; its training has not ended." in printed
    assert "| train.total_iter | 12 |\n| manual_seed | 5 |" in (tmp_path / "x.md").read_text()
    for history in ("", "{}\n", '{"iteration": null}\n', '{"iteration": "9"}\n', "x\n", "[]\n"):
        (tmp_path / "run" / "history.jsonl").write_text(history)
        printed = run("export", "--run", tmp_path / "run", "-o", tmp_path / "x.safetensors", "--overwrite")
        assert "iterations_done" not in printed


def test_what_does_not_go_together_is_refused(model: Path, tmp_path: Path) -> None:
    words = ("export", "--model", model, "-o")
    assert "must end in one of .safetensors (a network), .pth" in run(*words, tmp_path / "x.bin", code=1)
    assert "--fp16 is for ONNX" in run(*words, tmp_path / "x.pt2", "--fp16", code=1)
    assert "a file holds one network" in run(*words, tmp_path / "x.pth", "--last", code=1)
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a\x12")
    assert "holds no weights to take out" in run("export", "--model", tmp_path / "x.onnx", "-o", tmp_path / "x.pth", code=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.safetensors", "x.onnx"]
