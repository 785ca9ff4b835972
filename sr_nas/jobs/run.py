"""Beginning a run, or taking one up again."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import torch
import yaml

from sr_nas.errors import UserError, listing
from sr_nas.options.load import differences, dump_options
from sr_nas.options.tasks import AnySearch, AnyTraining
from sr_nas.runs.checkpoint import load_checkpoint
from sr_nas.runs.distributed import CPU, from_first, world_size
from sr_nas.runs.files import lock, sweep, write_json, write_text
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, new_run, provenance, resumable_runs

PROVENANCE = "run.json"
LOG = "log.txt"
# What may differ between a run and its continuation without changing its result.
_FREE = ("logger", "num_gpu", "path")
_FREE_OF_TRAINING = ("divergence_factor",)
_FREE_OF_A_DATASET = ("name", "num_worker_per_gpu", "cache")


@dataclass(frozen=True)
class Opened:
    """A run folder, and the state to go on from where it is taken up again; only the first process's log is written."""

    folder: Path
    state: dict[str, Any] | None
    log: logging.Logger

    def close(self) -> None:
        """Close the log, which also lets other processes go on with the run."""
        for handler in list(self.log.handlers):
            self.log.removeHandler(handler)
            handler.close()


def begun_with(options: AnySearch | AnyTraining, auto_resume: bool) -> int:
    """Return how many processes the run to go on with was begun with, or there are now where it is a new one.

    A run's batch is ``batch_size_per_gpu`` for each of these. It stays so, however many processes share it later on.

    Raises:
        UserError: the processes there are now cannot share it equally, or the run was made with other options.
    """

    def look() -> int:
        folder = _to_go_on_with(Path(options.path.experiments_root), options) if auto_resume else None
        return world_size() if folder is None else int(_starts(folder)[0]["processes"])

    begun = from_first(look)
    batch = options.datasets.train.batch_size_per_gpu * begun
    if batch % world_size():
        fitting = listing(count for count in range(1, batch + 1) if batch % count == 0)
        raise UserError(
            f"{options.name} was begun with batches of {batch}, which {world_size()} processes cannot share equally. "
            f"Go on with another number of them: {fitting}."
        )
    return begun


def batch_share(options: AnySearch | AnyTraining, begun: int) -> str:
    """Say what each process takes of a batch; nothing where there has only ever been one."""
    if begun == world_size() == 1:
        return ""
    batch = options.datasets.train.batch_size_per_gpu * begun
    return f", batches of {batch}, {batch // world_size()} for each of {world_size()} process{'es' * (world_size() > 1)}"


def open_run(options: AnySearch | AnyTraining, device: torch.device, auto_resume: bool) -> Opened:
    """Make a new run folder, or with ``auto_resume`` go on in the newest of that name, and note how it came about.

    Of several processes the first does so, and the others are told what it found: they need not see its disk.

    Raises:
        UserError: the run to go on with was made with other options, or its checkpoint cannot be read.
    """
    log = logging.getLogger(f"{__name__}.silent")
    log.addHandler(logging.NullHandler())
    log.propagate = False

    def open_folder() -> tuple[Path, dict[str, Any] | None]:
        nonlocal log
        opened = _open_folder(options, device, auto_resume)
        log = opened.log
        return opened.folder, opened.state

    folder, state = from_first(open_folder)
    return Opened(folder, state, log)


def _open_folder(options: AnySearch | AnyTraining, device: torch.device, auto_resume: bool) -> Opened:
    root = Path(options.path.experiments_root)
    folder = _to_go_on_with(root, options) if auto_resume else None
    if folder is None:
        folder = new_run(root, options.name)
        write_text(folder / OPTIONS, dump_options(options))
        write_json(folder / PROVENANCE, [provenance(options.manual_seed, device)])
        return Opened(folder, None, _logger(folder))
    log = _logger(folder)
    try:
        sweep(folder)
        # Each process brings the state to its own device, which is not the first one's.
        state = load_checkpoint(folder / CHECKPOINT, device if world_size() == 1 else CPU)
        starts = _starts(folder)
    except UserError:
        Opened(folder, None, log).close()
        raise
    write_json(folder / PROVENANCE, [*starts, provenance(options.manual_seed, device)])
    return Opened(folder, state, log)


def _to_go_on_with(root: Path, options: AnySearch | AnyTraining) -> Path | None:
    """Return the newest run of these options, or ``None`` where none of this name was ever begun."""
    wanted, others = _decisive(dump_options(options)), []
    for folder in resumable_runs(root, options.name):
        found = _decisive(_read(folder, OPTIONS))
        if found == wanted:
            return folder
        # Another name: a folder such as x_2 may be the second run of x, or the first of x_2. Another kind: train or search.
        if found.get("name") == options.name and ("search" in found) == ("search" in wanted):
            others.append((folder, found))
    if others:
        folder, found = others[0]
        raise UserError(
            f"{folder} was made with other options, so it cannot go on with these:\n  "
            + "\n  ".join(differences(found, wanted))
            + "\nLeave --auto_resume out to start a new run, or give back the old options."
        )
    return None


def _decisive(text: str) -> dict[str, Any]:
    """What of dumped options decides a run's result."""
    dumped: dict[str, Any] = yaml.safe_load(text)
    for key in _FREE:
        dumped.pop(key, None)
    for key in _FREE_OF_TRAINING:
        dumped.get("train", {}).pop(key, None)
    for dataset in dumped.get("datasets", {}).values():
        for key in _FREE_OF_A_DATASET:
            dataset.pop(key, None)
    return dumped


def _starts(folder: Path) -> list[dict[str, Any]]:
    """Return the notes on how a run was begun and taken up."""
    try:
        starts = json.loads(_read(folder, PROVENANCE))
        int(starts[0]["processes"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / PROVENANCE} is damaged ({error}), so the run cannot go on. Start a new one.") from error
    return list(starts)


def _read(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{folder} has lost its {name}, so it cannot go on. Start a new run without --auto_resume.") from error


def _logger(folder: Path) -> logging.Logger:
    logger = logging.getLogger(f"sr_nas.{folder.resolve()}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    try:
        lock(cast(TextIO, handler.stream))
    except BlockingIOError as error:
        handler.close()
        raise UserError(
            f"another process is running in {folder}. Wait for it, or start a new run without --auto_resume."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    return logger
