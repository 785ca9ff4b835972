"""Killed at random moments and started again until they are done, jobs leave what a straight run leaves, to the bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors import safe_open

from sr_nas.images.files import write_image
from sr_nas.jobs.run import LOG, PROVENANCE
from sr_nas.jobs.search import GENOTYPE
from sr_nas.runs.run_dir import CHECKPOINT, HISTORY, OPTIONS, load_tensors, read_history
from tests.campaigns.machinery import OK, STOPPED, Campaign, Outcome, before_writes, call, command, fork
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING
from tests.jobs.test_search_runs import assert_equal

pytestmark = pytest.mark.campaign

NEVER_THE_SAME = {PROVENANCE, LOG, "lock.mdb"}
"""Files of a run that say when and how it was started."""
MEASURED = ("seconds", "memory_bytes")
"""Values of a history that are the machine's."""


class Job(NamedTuple):
    """A command that goes on where it was stopped, the folder with its result, and kills in a campaign of minutes."""

    words: tuple[str | Path, ...]
    result: str
    kills: int


def run(name: str, file: Path, *overrides: str) -> tuple[str | Path, ...]:
    return (name, "-opt", file, "--auto_resume", "--force_yml", "path:experiments_root=runs", *overrides)


SHORT = ("search:epochs=2", "search:steps_per_epoch=3", "path:experiments_root=runs")
JOBS = {
    "search": Job(run("search", TINY_SEARCH, *SHORT, "logger:save_checkpoint_freq=2"), "runs", 6),
    "train": Job(
        run("train", TINY_TRAINING, "train:total_iter=10", "val:val_freq=4", "logger:save_checkpoint_freq=3"), "runs", 8
    ),
    "sweep": Job(
        ("analyze", "sweep", "-opt", TINY_SEARCH, "--over", "search:regularizer:nu=0.1,1", "--force_yml", *SHORT), "runs", 2
    ),
    "lr": Job(("prepare_data", "lr", "photos", "-o", "out", "--workers", "1"), "out", 6),
    "crop": Job(("prepare_data", "crop", "photos", "-o", "out", "--size", "24", "--step", "12", "--workers", "1"), "out", 4),
    "lmdb": Job(("prepare_data", "lmdb", "photos", "-o", "out.lmdb", "--workers", "1"), "out.lmdb", 8),
    "inference": Job(("inference", "-i", "photos", "-o", "out", "--model", "model.safetensors", "--engine", "torch"), "out", 6),
}


def prepare(root: Path, model: Path) -> Path:
    """Make a folder with all that a job may read."""
    (root / "photos").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(8):
        write_image(root / "photos" / f"{number}.png", random.integers(0, 256, (48 + number, 60, 3), np.uint8))
    (root / "model.safetensors").write_bytes(model.read_bytes())
    return root


def content(folder: Path) -> dict[str, Any]:
    """Return what must be the same after any number of kills: file -> its content, without names that begin with a dot."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    runs = {file.parent for file in files if file.name == CHECKPOINT}
    found: dict[str, Any] = {}
    for file in files:
        name = str(file.relative_to(folder))
        if husk := next((part for part in file.parents if (part / OPTIONS).exists() and part not in runs), None):
            assert not (husk / GENOTYPE).exists()  # killed before its first checkpoint, so that the next start made a new run
            continue
        if file.name not in NEVER_THE_SAME:
            name = re.sub(r"_\d+/", "/", name)
            assert name not in found, f"two runs with a checkpoint, so one was not resumed: {name}"
            found[name] = value_of(file)
    return found


def value_of(file: Path) -> Any:
    if file.name == CHECKPOINT:
        return {key: value for key, value in load_tensors(file).items() if key != "seconds"}
    if file.name == HISTORY:
        return [{k: v for k, v in record.items() if k not in MEASURED} for record in read_history(file.parent)]
    if file.suffix == ".safetensors":  # writes its metadata in any order
        with safe_open(file, "pt") as tensors:
            return dict(sorted((tensors.metadata() or {}).items())) | {
                key: tensors.get_tensor(key) for key in sorted(tensors.keys())
            }
    return file.read_bytes()


def kill_before(words: tuple[str | Path, ...], number: int) -> int:
    """Run a command that is killed before it changes a file for that time; report how many changes there were."""
    changes = 0

    def action(count: int) -> None:
        nonlocal changes
        changes = count
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    before_writes(Path.cwd(), action)
    code = call(*words)
    print(f"changes: {changes}")
    return code


@pytest.mark.parametrize("name", JOBS)
def test_jobs(name: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    job, random = JOBS[name], campaign.random
    limits: dict[str, Any] = {"memory": None if name == "lmdb" else 4 << 30}

    straight = campaign.call(partial(kill_before, job.words, -1), folder=prepare(tmp_path / "straight", model), **limits)
    assert straight.verdict == OK, straight.text
    changes, expected = int(straight.text.rsplit("changes: ", 1)[1]), content(tmp_path / "straight" / job.result)
    assert len(expected) > 1 and changes > 1
    wanted, number = campaign.count(job.kills), 0
    while campaign.outcomes[STOPPED] < wanted:
        folder, number = prepare(tmp_path / str(number), model), number + 1
        for _ in range(random.randint(1, 8)):
            if random.random() < 0.5:
                outcome = command_killed_before(job.words, random.randint(1, changes), folder, limits)
            else:
                kill = (signal.SIGTERM if random.random() < 0.2 else signal.SIGKILL, random.uniform(0, straight.seconds))
                outcome = command(*job.words, folder=folder, kill=kill, **limits)
            if campaign.counted(outcome, name).verdict == OK:
                break
        else:
            outcome = campaign.run(*job.words, folder=folder, **limits)
        # An LMDB that was finished before a kill is not written again.
        assert outcome.verdict == OK or (name == "lmdb" and "out.lmdb exists" in outcome.text), outcome.text
        assert_equal(expected, content(folder / job.result))
        shutil.rmtree(folder)


def command_killed_before(words: tuple[str | Path, ...], number: int, folder: Path, limits: dict[str, Any]) -> Outcome:
    outcome = fork(partial(kill_before, words, number), folder=folder, **limits)
    return outcome._replace(verdict=STOPPED) if outcome.code == -signal.SIGKILL else outcome
