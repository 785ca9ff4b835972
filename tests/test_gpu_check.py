"""tools/gpu_check.sh without a GPU: what it refuses, and that its parts all run and are all in its JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a bash of this decade")
PARTS = ["tests", "supernet", "search-step", "training", "inference", "search", "search-graph", "train"]
# Everything but the last lines of Python is only printed; one part fails, one prints JSON.
STAND_IN = f"""#!/bin/sh
[ "$1" = -c ] && [ "$3" = cpu ] && echo '{{"device": "some GPU"}}' && exit
[ "$1" = -c ] && exec {sys.executable} "$@"
case "$*" in *search-step*) echo broken >&2; exit 3 ;; *supernet*) echo '{{"ratio": 2}}' ;; *) echo "$@" ;; esac
"""


def check(result: Path, python: Path | str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", REPOSITORY / "tools" / "gpu_check.sh", result],
        env=os.environ | {"PYTHON": str(python), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = check(tmp_path / "check.json")
    assert done.returncode == 1 and done.stderr.endswith("gpu_check: PyTorch finds no CUDA device here.\n") and not done.stdout
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten(tmp_path: Path) -> None:
    result = tmp_path / "check.json"
    result.write_text("mine")
    done = check(result)
    assert done.returncode == 2 and done.stderr == f"gpu_check: {result} exists. Name another file, or move it away.\n"
    assert check(tmp_path / "none" / "check.json").returncode == 2 and result.read_text() == "mine"


def test_parts_go_on_where_one_fails(tmp_path: Path) -> None:
    stand_in, result = tmp_path / "python", tmp_path / "check.json"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    done = check(result, stand_in, GPU_CHECK_DEVICE="cpu")
    content = json.loads(result.read_text())
    assert done.returncode == 1 and content["device"] == "some GPU"
    parts = content["parts"]
    assert list(parts) == PARTS
    assert [name for name, part in parts.items() if part["exit_code"]] == ["search-step"]
    assert parts["search-step"]["exit_code"] == 3 and parts["search-step"]["errors"] == ["broken"]
    assert parts["supernet"]["figures"] == {"ratio": 2} and "num_gpu=0" in parts["train"]["figures"][0]
    assert all(0 <= part["seconds"] < 60 for part in parts.values())
