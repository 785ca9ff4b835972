"""The loader's benchmark from command to table. What it measures is not asserted: that would test the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sr_nas.images.files import write_image
from sr_nas.jobs import loader_benchmark
from sr_nas.jobs.loader_benchmark import Plan
from tests.jobs.processes import run

SMALL = ("--images", "2", "--size", "48x40", "--gt_size", "16", "--batch", "2", "--rounds", "1", "--seconds", "0")


@pytest.fixture
def few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loader has a process, which loads torch: measure one of ours."""
    monkeypatch.setattr(loader_benchmark, "_loaders", lambda *words, of=loader_benchmark._loaders: of(*words)[1:2])


@pytest.fixture
def no_basicsr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "basicsr", None)


def test_every_way_to_read_is_measured() -> None:
    plan = Plan(images=5, size=(48, 40), scale=2, gt_size=16, batch_size=2, workers=0, rounds=1, seconds=0)
    found = {loader.name: loader.images for loader in loader_benchmark._loaders(plan, Path())}
    assert found == {"folder": 5, "folder, cache": 5, "folder, cache, half": 2, "lmdb": 5, "lmdb, cache": 5}


@pytest.mark.slow
def test_rows_beside_basicsr_with_a_worker(few_processes: None, basicsr: ModuleType) -> None:
    printed = run("benchmark", "data", *SMALL, "--workers", "1", "--json")
    found = json.loads(printed[printed.index("{") :])
    assert list(found["loaders"]) == ["folder, cache", "basicsr folder", "basicsr lmdb"]
    assert found["loaders"]["basicsr folder"]["ratio"] == 1 and found["reference"] == "basicsr folder"
    for row in found["loaders"].values():
        assert row["images"] == 2 and row["patches_per_s"] > 0
        # Whatever reads images with torch holds some ten megabytes, in every unit but the right one something else.
        assert sys.platform != "linux" or 50 < row["peak_mb"] < 5000


def test_without_basicsr_the_rows_are_ours_and_that_is_said(few_processes: None, no_basicsr: None, tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.full((33, 27, 3), number, np.uint8))
    printed = run("benchmark", "data", *SMALL, "--workers", "0", "--data", tmp_path)
    assert "no rows of basicsr to compare with: basicsr is not installed" in printed
    assert "ratio: to folder, cache, of the same round" in printed
    assert f"2 images of {tmp_path}" in printed


def test_what_cannot_be_measured_is_refused(few_processes: None, no_basicsr: None, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    assert "has 1 images, fewer than --images 2" in run("benchmark", "data", *SMALL, "--data", tmp_path, code=1)
    assert "multiple of --scale 3" in run("benchmark", "data", *SMALL, "--scale", "3", code=1)
    too_large = run("benchmark", "data", *SMALL, "--gt_size", "64", "--workers", "0", code=1)
    assert "48x40 pixels, too few for patches of gt_size 64" in too_large


def test_size_and_counts_are_checked() -> None:
    for words in (("--size", "48"), ("--images", "1")):
        with pytest.raises(SystemExit):
            run("benchmark", "data", *words)
