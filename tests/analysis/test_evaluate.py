"""The command ``evaluate`` of one model."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sr_nas.cli import main
from sr_nas.images.files import write_image
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


@pytest.mark.long
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


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_names_that_a_terminal_lacks_are_printed_with_backslashes(
    model: Path, photos: Path, tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["\u65e5\u672c", os.fsdecode(b"b\xff")]
    for name in names:
        shutil.copy(photos / "grey.png", tmp_path / f"{name}.png")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr("sys.stdout", streams[0])
    monkeypatch.setattr("sys.stderr", streams[1])
    assert main(["evaluate", "--model", str(model), "--data", str(tmp_path)]) == 0
    assert main(["evaluate", "--model", str(model), "--data", str(tmp_path / names[0])]) == 1
    printed = [stream.buffer.getvalue().decode(encoding) for stream in streams]  # type: ignore[attr-defined]
    shown = [name.encode(encoding, "backslashreplace").decode(encoding) for name in names]
    assert all(name in printed[0] for name in shown) and shown[0] in printed[1]


def test_lr_of_other_names_gets_no_advice_on_options_that_are_not_there(model: Path, tmp_path: Path) -> None:
    for name in ("hr/a", "lr/a_lr"):
        write_image(tmp_path / f"{name}.png", np.zeros((24, 24, 3), np.uint8))
    printed = run("evaluate", "--model", model, "--data", tmp_path / "hr", "--lr", tmp_path / "lr", code=1)
    assert "HR without LR: 1 (a)" in printed and "filename_tmpl" not in printed


def test_evaluate_table_and_refusals(model: Path, photos: Path) -> None:
    printed = run("evaluate", "--model", model, "--data", photos)
    assert "bicubic dB" in printed
    assert "Protocol" in printed
    assert "upscales by 2" in run("evaluate", "--model", model, "--data", photos, "--scale", "4", code=1)
    assert "does not exist" in run("evaluate", "--model", model, "--data", photos / "gone", code=1)
    assert "of one set" in run("evaluate", "--model", model, "--data", photos, photos, "--lr", photos, code=1)
    assert "both called" in run("evaluate", "--model", model, "--data", photos, photos, code=1)
