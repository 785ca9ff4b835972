"""Run folders ``experiments/<name>``: never overwritten, with the history of the run and a record of how it was made."""

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
from sr_nas.runs.files import write_text

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
OPTIONS = "options.yml"
NETWORK_BLOCK = "network_g.yml"
"""Option block of the network that a search has selected."""
PACKAGES = ("torch", "numpy", "pydantic", "fvcore", "scikit-image", "opencv-python-headless", "safetensors", "lmdb", "basicsr")
"""Packages whose versions are recorded with a run."""


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
    runs = [
        (int(match[1] or 1), path)
        for path in root.glob(f"{name}*")
        if (path / CHECKPOINT).is_file() and (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(runs, reverse=True)]


def append_history(folder: Path, record: dict[str, Any]) -> None:
    """Append one record to the history."""
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's history, in order. A last line cut off by a kill is left out.

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
    """Drop the records after step ``last``: a run that resumes there writes them again."""
    if (folder / HISTORY).is_file():
        records = [record for record in read_history(folder) if record[key] <= last]
        write_text(folder / HISTORY, "".join(json.dumps(record) + "\n" for record in records))


def provenance(seed: int, device: torch.device) -> dict[str, Any]:
    """Return what identifies a run, JSON-ready; versions of packages that are not installed are ``None``."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
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
        "device_name": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def git_revision() -> str | None:
    """Return the git revision of the code, with ``+changes`` where tracked files differ from it; ``None`` without a checkout."""
    root = Path(sr_nas.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
