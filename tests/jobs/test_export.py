from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sr_nas.export.network_file import load_network, read_metadata, save_network
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
    assert "| license | MIT |" in card.read_text(), "the first file's, which the others are made of"


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


def test_a_file_states_what_made_its_lr_images_worse_and_what_it_began_with(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_bytes(model.read_bytes())
    steps = "{degradation: [{type: jpeg, quality: [40, 95]}]}"
    for file, stated in (("/private/x2/last.safetensors", "x2/last.safetensors"), ("/private/other.pth", "other.pth")):
        options = f"datasets: {{train: {steps}}}\npath: {{pretrain_network_g: {file}}}\n"
        (tmp_path / "run" / "options.yml").write_text(options)
        run("export", "--run", tmp_path / "run", "-o", tmp_path / "x.safetensors", "--fp16", "--overwrite")
        run("export", "--model", tmp_path / "x.safetensors", "-o", tmp_path / "y.pth", "--overwrite")
        for card in ((tmp_path / name).read_text() for name in ("x.md", "y.md")):
            assert f"| begun_with | {stated} |" in card and "/private" not in card
            assert "| degradation | type jpeg, quality [40, 95] |" in card and "| weights | rounded to float16 |" in card
        training = json.loads(read_metadata(tmp_path / "x.safetensors")["training"])
        assert training["degradation"] == [{"type": "jpeg", "quality": [40, 95]}]
    for damaged in ("datasets: 3", "datasets: {train: [1]}", "path: x", "path: {pretrain_network_g: 3}"):
        (tmp_path / "run" / "options.yml").write_text(damaged)
        printed = run("export", "--run", tmp_path / "run", "-o", tmp_path / "z.safetensors", code=1)
        assert "options.yml is damaged" in printed and not (tmp_path / "z.safetensors").exists()


def test_measured_figures_go_into_file_and_card(model: Path, tmp_path: Path) -> None:
    words = ("--model", model, "--json")
    printed = run("evaluate", *words, "--data", "sample")
    (tmp_path / "evaluation.json").write_text("{" + printed.partition("\n{")[2])
    costs = {"params": 1, "macs_hr_1280x720": 2_500_000_000, "latency_ms": 31.26}
    costs |= {"params": sum(weight.numel() for weight in load_network(model).parameters())}
    costs |= {"machine": {"host": "a processor", "device": "cpu", "threads": 2}}
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    scores = ("--scores", tmp_path / "evaluation.json", tmp_path / "costs.json")
    run("export", "--model", model, "-o", tmp_path / "x2.pth", *scores, "--license", "CC0", "--no_card")
    run("export", "--model", tmp_path / "x2.pth", "-o", tmp_path / "x2.safetensors", "--overwrite")
    training = json.loads(read_metadata(tmp_path / "x2.safetensors")["training"])
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())["sets"]["sample"]
    assert training["license"] == "CC0" and training["run"] == "mine"
    assert training["figures"] == costs | {"sets": {"sample": {key: evaluation[key] for key in ("psnr", "ssim", "bicubic")}}}
    card = (tmp_path / "x2.md").read_text()
    assert "| time, HR output 1280x720 | 31.3 ms (a processor, threads: 2) |" in card and "figures" not in card
    numbers = [f"{of['psnr']:.3f} | {of['ssim']:.4f}" for of in (evaluation, evaluation["bicubic"])]
    assert f"| sample | {' | '.join(numbers)} |" in card

    (tmp_path / "other.json").write_text(json.dumps(costs | {"params": 7}))
    (tmp_path / "list.json").write_text("[]")
    words = ("export", "--model", model, "-o", tmp_path / "new.pth", "--scores")
    assert "of another network" in run(*words, tmp_path / "other.json", code=1)
    assert "is neither of tools/evaluate.py" in run(*words, tmp_path / "list.json", code=1)
    assert not (tmp_path / "new.pth").exists()


def test_what_does_not_go_together_is_refused(model: Path, tmp_path: Path) -> None:
    words = ("export", "--model", model, "-o")
    assert "must end in one of .safetensors (a network), .pth" in run(*words, tmp_path / "x.bin", code=1)
    assert "--fp16 is for .safetensors, .onnx and .param: leave it out" in run(*words, tmp_path / "x.pt2", "--fp16", code=1)
    for option in (("--calibrate", tmp_path), ("--data", tmp_path), ("--max_loss", "0")):
        assert f"{option[0]} is for --int8" in run(*words, tmp_path / "x.onnx", *option, code=1)
    assert "a file holds one network" in run(*words, tmp_path / "x.pth", "--last", code=1)
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a\x12")
    assert "holds no weights to take out" in run("export", "--model", tmp_path / "x.onnx", "-o", tmp_path / "x.pth", code=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.safetensors", "x.onnx"]
