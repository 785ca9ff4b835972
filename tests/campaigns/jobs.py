"""Small jobs that go on where they were stopped, and what their results must share to the bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors import safe_open

from sr_nas.images.files import write_image
from sr_nas.jobs.run import LOG
from sr_nas.jobs.search import GENOTYPE
from sr_nas.report.page import PICTURE, REPORT
from sr_nas.runs.run_dir import CHECKPOINT, HISTORY, OPTIONS, PROVENANCE, load_tensors, read_history
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING

NEVER_THE_SAME = {PROVENANCE, LOG, PICTURE, REPORT, "lock.mdb", "table.csv", "table.md"}
"""Files with times, a command or a folder's name, and LMDB's list of readers; the numbers of tables are in JSON too."""
MEASURED = ("seconds", "memory_bytes")
"""Values of a history that are the machine's."""
DISK = "disk"
"""Folder below a job's own that it writes to."""


class Job(NamedTuple):
    """A command for a folder of :func:`prepare`, and how often it is killed in a campaign of minutes, if at all."""

    words: tuple[str | Path, ...]
    kills: int = 4


def _run(name: str, file: Path, *overrides: str) -> Job:
    return Job((name, "-opt", file, "--auto_resume", "--force_yml", f"path:experiments_root={DISK}/runs", *overrides), 5)


_SEARCH = ("search:epochs=2", "search:steps_per_epoch=3")
_SWEEP = ("sweep", "-opt", TINY_SEARCH, "--jobs", "1", "--grid", "search:regularizer:nu=0.1,1", "--force_yml", *_SEARCH)
_PREPARE = ("-o", f"{DISK}/out", "--workers", "1")
_MODEL = ("--model", "model.safetensors")
JOBS = {
    "search": _run("search", TINY_SEARCH, *_SEARCH, "logger:save_checkpoint_freq=2"),
    "train": _run("train", TINY_TRAINING, "train:total_iter=10", "val:val_freq=2", "logger:save_checkpoint_freq=5"),
    "sweep": Job((*_SWEEP, f"path:experiments_root={DISK}/runs"), 1),
    "lr": Job(("prepare_data", "lr", "photos", *_PREPARE), 5),
    "crop": Job(("prepare_data", "crop", "photos", "--size", "24", "--step", "12", *_PREPARE), 5),
    "lmdb": Job(("prepare_data", "lmdb", "photos", "-o", f"{DISK}/out.lmdb", "--workers", "1"), 7),
    "inference": Job(("inference", "-i", "photos", "-o", f"{DISK}/out", *_MODEL, "--engine", "torch"), 5),
    "evaluate": Job(("evaluate", "-opt", "table.yml", "--save_images")),
    **{
        f"export {suffix}": Job(("export", *_MODEL, "-o", f"{DISK}/net.{suffix}", "--overwrite"), kills)
        for suffix, kills in (("safetensors", 1), ("pth", 1), ("json", 1), ("onnx", 0))
    },
}


def prepare(root: Path, model: Path) -> Path:
    """Make a folder with all that a job may read, and an empty one to write to."""
    (root / "photos").mkdir(parents=True)
    (root / DISK).mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        write_image(root / "photos" / f"{number}.png", random.integers(0, 256, (48 + number, 60, 3), np.uint8))
    (root / "model.safetensors").write_bytes(model.read_bytes())
    table: dict[str, Any] = {"name": "table", "num_gpu": 0, "datasets": {"photos": "photos"}, "crop": 16}
    table |= {"models": {"one": {"path": "model.safetensors"}}, "path": {"experiments_root": f"{DISK}/runs"}}
    (root / "table.yml").write_text(yaml.safe_dump(table))
    return root


def content(folder: Path) -> dict[str, Any]:
    """Return what must be the same after any number of interruptions: file -> its content, without hidden files."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    runs = {file.parent for file in files if file.name in (CHECKPOINT, "table.json")}
    found: dict[str, Any] = {}
    for file in files:
        if husk := next((place for place in file.parents if (place / OPTIONS).exists() and place not in runs), None):
            assert not (husk / GENOTYPE).exists()  # stopped before its first checkpoint, so that the next start made a new run
        elif file.name not in NEVER_THE_SAME:
            name = re.sub(r"_\d+/", "/", str(file.relative_to(folder)))
            assert name not in found, f"two runs with a checkpoint, so one was not resumed: {name}"
            found[name] = value_of(file)
    return found


def value_of(file: Path) -> Any:
    """Return a file's content, without what differs from one run to the next."""
    if file.suffix in (".pt", ".pth"):
        return {key: value for key, value in load_tensors(file).items() if key != "seconds"}
    if file.name == HISTORY:
        return unmeasured(read_history(file.parent))
    if file.suffix == ".json":
        return unmeasured(json.loads(file.read_text()))
    if file.suffix == ".safetensors":  # writes its metadata in any order
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata() or {}
            return dict(sorted(metadata.items())) | {key: tensors.get_tensor(key) for key in sorted(tensors.keys())}
    return file.read_bytes()


def unmeasured(value: Any) -> Any:
    """Return nested lists and dicts without what the machine's speed and memory decide."""
    if isinstance(value, dict):
        return {key: unmeasured(item) for key, item in value.items() if key not in MEASURED}
    return [unmeasured(item) for item in value] if isinstance(value, list) else value
