"""Run folders: ``experiments/<name>``, never written over."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sr_nas
from sr_nas.errors import UserError
from sr_nas.runs.distributed import world_size
from sr_nas.runs.files import replacing

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
OPTIONS = "options.yml"
NETWORK_BLOCK = "network_g.yml"
"""What a search writes beside its genotype: the option block of the network it found."""


def new_run(root: Path, name: str) -> Path:
    """Create and return ``root/name``, or ``root/name_2``, ``root/name_3`` ... where that exists already."""
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def resumable_runs(root: Path, name: str) -> list[Path]:
    """Return those of ``root/name``, ``root/name_2`` ... that hold a checkpoint, the newest first."""
    pattern = re.compile(re.escape(name) + r"(?:_(\d+))?")
    found = [
        (int(match[1] or 1), path)
        for path in root.glob(f"{name}*")
        if (path / CHECKPOINT).is_file() and (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def append_history(folder: Path, record: dict[str, Any]) -> None:
    """Add one line to the history."""
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's history, in order; a half-written last line, left by a kill, is not one.

    Raises:
        UserError: there is no history, or a line inside it is damaged.
    """
    file = folder / HISTORY
    if not file.is_file():
        raise UserError(f"{folder} holds no {HISTORY}: is it the folder of a run?")
    lines = file.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}.") from error


def cut_history(folder: Path, last: int, key: str = "step") -> None:
    """Drop the records after step ``last``: a run that resumes there makes them again."""
    if (folder / HISTORY).is_file():
        kept = [record for record in read_history(folder) if record[key] <= last]
        with replacing(folder / HISTORY) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


# MERGED sr_nas.runs.run_dir: How a run was made: the command line, the code, the packages, the machine, the
# seed.


PACKAGES = ("torch", "numpy", "pydantic", "fvcore", "scikit-image", "opencv-python-headless", "safetensors", "lmdb", "basicsr")


def provenance(seed: int, device: torch.device) -> dict[str, Any]:
    """Return what identifies a run, JSON-ready; versions of packages that are not installed are ``None``."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "processes": world_size(),
        "sr_nas": sr_nas.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """Revision of the code, with ``+changes`` where files differ from it; ``None`` where it is no git checkout."""
    root = Path(sr_nas.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
