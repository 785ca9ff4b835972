"""How a run was made: the command line, the code, the packages, the machine, the seed."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sr_nas
from sr_nas.runs.distributed import world_size

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
