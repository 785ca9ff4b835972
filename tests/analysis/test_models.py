"""The command ``models``: what the files themselves state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export.named import FIGURES, make_named
from tests.jobs.processes import run


def test_the_list_is_of_the_files_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_named(tmp_path / "models", monkeypatch)
    assert json.loads(run("models", "--json")) == {
        "fast_x2": {"architecture": "IMDN", "scale": 2},
        "x2": {"architecture": "IMDN", "scale": 2, "data": "my photos", "license": "CC0"} | FIGURES,
        "x4": {"architecture": "IMDN", "scale": 4, "license": "MIT"},
    }
    lines = [line.split() for line in run("models").splitlines()]
    assert ["x2", "x2", "12,345", "2.50", "G", "31", "37.65", "/", "0.9587"] in lines
    assert ["x4", "x4", "-", "-", "-", "-"] in lines
    texts = [" ".join(line) for line in lines]
    assert "ms: a processor, threads: 2" in texts and "trained on my photos; license: CC0: x2" in texts
    assert "trained on images that are not stated; license: not stated: fast_x2" in texts
    monkeypatch.setattr("sr_nas.export.model.SHIPPED", tmp_path / "none")
    assert "no network ships" in run("models")
