"""The command ``evaluate`` of one model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.processes import run


def test_evaluate_released_imdn_on_set5(shared: Path) -> None:
    """The anchor of everything that measures: IMDN x4, 32.21 dB / .8948 (FACTS of the released weights)."""
    printed = run(
        "evaluate", "--model", shared / "weights" / "IMDN_x4.pth", "--arch", "imdn", "--data", shared / "data" / "Set5", "--json"
    )
    found = json.loads(printed[printed.index("{") :])
    assert found["scale"] == 4
    assert found["sets"]["Set5"]["psnr"] == pytest.approx(32.210, abs=0.002)
    assert found["sets"]["Set5"]["ssim"] == pytest.approx(0.8948, abs=0.0002)
    assert list(found["sets"]["Set5"]["images"]) == ["baby", "bird", "butterfly", "head", "woman"]
    assert found["sets"]["Set5"]["bicubic"]["psnr"] == pytest.approx(28.43, abs=0.01)
    assert "BT.601" in found["protocol"]["luma"]


def test_evaluate_takes_an_hr_folder_or_named_lr(model: Path, shared: Path) -> None:
    """Set5's LR images are what the protocol makes of HR, so all three ways give one number."""
    data, results = shared / "data" / "Set5", []
    for words in ([data], [data / "HR"], [data / "HR", "--lr", data / "LR_matlab" / "x2"]):
        printed = run("evaluate", "--model", model, "--json", "--data", *words)
        results.append(json.loads(printed[printed.index("{") :])["sets"]["Set5"]["psnr"])
    assert results[0] == results[1] == results[2]


def test_evaluate_in_tiles_is_near(shared: Path) -> None:
    """Near, not equal: IMDN's attention pools over each tile."""
    words = ["--model", shared / "weights" / "IMDN_x4.pth", "--arch", "imdn", "--data", shared / "data" / "Set5", "--tile", "48"]
    printed = run("evaluate", *words, "--json")
    found = json.loads(printed[printed.index("{") :])["sets"]["Set5"]["psnr"]
    assert found != pytest.approx(32.2096, abs=1e-4)
    assert found == pytest.approx(32.2096, abs=0.02)


def test_names_with_brackets_are_printed_as_they_are(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set[red]").mkdir()
    (tmp_path / "set[red]" / "a[b].png").write_bytes((photos / "grey.png").read_bytes())
    printed = run("evaluate", "--model", model, "--data", tmp_path / "set[red]")
    assert "set[red] x2" in printed and "a[b]" in printed


def test_evaluate_table_and_refusals(model: Path, photos: Path) -> None:
    printed = run("evaluate", "--model", model, "--data", photos)
    assert "bicubic dB" in printed
    assert "Protocol" in printed
    assert "upscales by 2" in run("evaluate", "--model", model, "--data", photos, "--scale", "4", code=1)
    assert "does not exist" in run("evaluate", "--model", model, "--data", photos / "gone", code=1)
    assert "of one set" in run("evaluate", "--model", model, "--data", photos, photos, "--lr", photos, code=1)
    assert "both called" in run("evaluate", "--model", model, "--data", photos, photos, code=1)
