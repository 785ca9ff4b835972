"""Run folders ``experiments/<name>``, which are never overwritten: checkpoints, history, and a record of how the run was made."""

from __future__ import annotations

import itertools
import json
import pickle
import platform
import re
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sr_nas
from sr_nas.errors import UserError, parse_json, shortened
from sr_nas.runs.distributed import world_size
from sr_nas.runs.files import replacing, write_text

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.jsonl"
OPTIONS = "options.yml"
PACKAGES = ("torch", "numpy", "pydantic", "fvcore", "scikit-image", "opencv-python-headless", "safetensors", "lmdb", "basicsr")
"""Packages whose versions are recorded with a run."""


def new_run(root: Path, name: str) -> Path:
    """Create and return ``root/name``, or ``root/name_2``, ``root/name_3`` ... where that exists already."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def run_folders(root: Path, name: str) -> list[Path]:
    """Return the folders ``root/name``, ``root/name_2`` ..., the newest first."""
    pattern = re.compile(re.escape(name) + r"(?:_(\d+))?")
    found = [(int(match[1] or 1), path) for path in root.glob("*") if (match := pattern.fullmatch(path.name)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def resumable_runs(root: Path, name: str) -> list[Path]:
    """Return those of :func:`run_folders` that hold a checkpoint."""
    return [folder for folder in run_folders(root, name) if (folder / CHECKPOINT).is_file()]


def append_history(folder: Path, record: dict[str, Any]) -> None:
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's history, without a last line cut off by a kill; a UserError if it is missing or damaged."""
    file = folder / HISTORY
    if not file.is_file():
        raise UserError(f"{folder} holds no {HISTORY}: is it the folder of a run?")
    lines = file.read_bytes().split(b"\n")
    return [_record(line, f"{file}, record {number}") for number, line in enumerate(lines[:-1], start=1)]


def _record(line: bytes, where: str) -> dict[str, Any]:
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise UserError(f"{where} is damaged: it is {shortened(record)} and not a mapping.")
    return record


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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` together with the states of this process's random generators (CPU, and CUDA where there is one)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    with replacing(path) as temporary:
        torch.save({**state, "random": {"cpu": torch.get_rng_state(), "cuda": cuda}}, temporary)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint to ``device`` and restore the states of the random generators; a UserError if it is none."""
    state = load_tensors(path, device)
    random = state.pop("random", None)
    if random is None:
        raise UserError(f"{path} is no checkpoint of a run: it holds {', '.join(map(str, list(state)[:8]))}.")
    torch.set_rng_state(random["cpu"].cpu())
    if torch.cuda.is_available() and random["cuda"]:
        torch.cuda.set_rng_state_all([state.cpu() for state in random["cuda"][: torch.cuda.device_count()]])
    return state


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a mapping of names to tensors with ``weights_only=True``: a file that would need to run code is refused.

    Raises:
        UserError: the file is missing, damaged, refused, or holds no mapping.
    """
    try:
        loaded = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} was refused: it holds more than tensors and plain values, or is no PyTorch file. Only files that load "
            f"with weights_only=True are read. ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # torch.load raises whatever its unpickler meets in a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a PyTorch file: {reason}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors.")
    return loaded


def first_non_finite(module: nn.Module) -> str | None:
    """Return the name of a parameter or buffer that is not finite, or ``None`` where all are."""
    return next((name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()), None)


def refuse_non_finite(module: nn.Module, advice: str) -> None:
    """Raise UserError with advice where a tensor of the module is not finite, before it replaces a good one on disk."""
    if name := first_non_finite(module):
        raise UserError(f"{name} is no longer finite: the run has diverged. {advice} The last checkpoint is from before.")
