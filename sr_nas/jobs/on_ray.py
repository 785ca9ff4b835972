"""Trials of a sweep on a Ray cluster: each is a task that runs the command of its trial, in a process that ends with it.

Where a worker sees the driver's folder, it works there. Elsewhere it gets the trial's run folder and sends it back at its end.
"""

from __future__ import annotations

import io
import json
import logging
import os
import secrets
import shutil
import tarfile
import tempfile
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from sr_nas.errors import UserError
from sr_nas.jobs.run import dump_with_plugins
from sr_nas.jobs.search import run_search
from sr_nas.jobs.train import run_training
from sr_nas.jobs.trials import OPTION_FILES, OUTPUTS, Trial
from sr_nas.options.load import load_options
from sr_nas.runs.files import keep_freed_memory, write_text
from sr_nas.runs.run_dir import run_folders
from sr_nas.task import search_options, training_options

try:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    import ray
except ImportError as error:
    raise UserError(f"--address: Ray is not installed ({error}). pip install 'sr_nas[sweep]', or leave --address out.") from error

TOKEN = ".sweep_token"
RETRIES = 3
"""Times that a trial is begun again whose worker has died; on a disk that all share it goes on from its checkpoint."""


class RayWorkers:
    """Workers of a Ray cluster (:class:`sr_nas.jobs.trials.Workers`).

    Args:
        address: of the cluster, ``"auto"`` for the one of this machine, or ``"local"`` to start one here for this sweep.
        folder: of the sweep.
        jobs: trials at a time; by default as many as the cluster has room for now.
        cores: CPU cores of a trial; its threads are as many.
        gpus: GPUs of a trial; by default 1 where the cluster has any.
        shared: whether workers may look for the driver's folder.

    Raises:
        UserError: there is no such cluster, or it has no room for one trial.
    """

    def __init__(
        self, address: str, folder: Path, jobs: int | None, cores: int = 1, gpus: float | None = None, shared: bool = True
    ) -> None:
        try:
            dashboard = False if address == "local" else None
            ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--address {address}: there is no such Ray cluster ({str(error).splitlines()[0]}).") from error
        room = ray.cluster_resources()
        gpus = gpus if gpus is not None else float(room.get("GPU", 0) > 0)
        fit = int(min(room.get("CPU", 0) // cores, room.get("GPU", 0) / gpus if gpus else 10**6))
        self.count = jobs or fit
        if not fit:
            has = f"{room.get('CPU', 0):g} cores and {room.get('GPU', 0):g} GPUs"
            raise UserError(f"a trial of {cores} cores and {gpus:g} GPUs does not fit the cluster, which has {has} in all.")
        self._task = ray.remote(num_cpus=cores, num_gpus=gpus, max_calls=1, max_retries=RETRIES)(run_trial)
        self._folder = folder.resolve()
        self._references: dict[Future[int], Any] = {}
        self._token = secrets.token_hex() if shared else ""
        write_text(self._folder / TOKEN, self._token)

    def submit(self, trial: Trial, until: int) -> Future[int]:
        """Hand a trial to the cluster."""
        future: Future[int] = Future()
        place = {"cwd": os.getcwd(), "folder": str(self._folder), "token": self._token}
        options = dump_with_plugins(trial.options, self._folder / OPTION_FILES)
        printed = [f"{OUTPUTS}/{trial.name}.txt"] if trial.output.exists() else []
        printed += [f"{OPTION_FILES}/{Path(file).name}" for file in trial.options.plugin or ()]
        content = pack(self._folder, [*printed, *(run.name for run in run_folders(self._folder, trial.name))])
        reference = self._task.remote(trial.command, trial.name, options, until, content, place)
        self._references[future] = reference
        future.set_running_or_notify_cancel()
        reference.future().add_done_callback(lambda ended: self._end(future, ended))
        return future

    def _end(self, future: Future[int], ended: Future[tuple[int, bytes]]) -> None:
        self._references.pop(future, None)
        try:
            code, content = ended.result()
            unpack(content, self._folder)
        except BaseException as error:  # whatever Ray raises goes to whoever asks for the result
            future.set_exception(error)
        else:
            future.set_result(code)

    def stop(self) -> None:
        """Send what is Ctrl-C to a task that runs; one that waits is dropped."""
        for reference in list(self._references.values()):
            ray.cancel(reference, force=False)


def run_trial(command: str, name: str, options: str, until: int, content: bytes, place: dict[str, str]) -> tuple[int, bytes]:
    """Run a trial in this process; return its exit code, and its files where the driver cannot see them.

    Args:
        command: ``search`` or ``train``.
        name: of the trial.
        options: content of its option file.
        until: epoch or iteration to stop after.
        content: archive of its run folders as the driver has them.
        place: ``cwd`` of the driver, to which the paths of options are relative; ``folder`` of the sweep and its ``token``.
    """
    with suppress(OSError):
        os.chdir(place["cwd"])
    folder, token = Path(place["folder"]), None
    with suppress(OSError):
        token = (folder / TOKEN).read_text(encoding="utf-8")
    shared = bool(place["token"]) and token == place["token"]
    root = folder if shared else Path(tempfile.mkdtemp(prefix="sr_nas_sweep_"))
    try:
        if not shared:
            unpack(content, root)
            for part in (OUTPUTS, OPTION_FILES):
                (root / part).mkdir(exist_ok=True)
        write_text(file := root / OPTION_FILES / f".{name}.yml", options)
        with (root / OUTPUTS / f"{name}.txt").open("a", encoding="utf-8") as output:
            code = _run(command, file, root, until, output)
        file.unlink()
        return code, b"" if shared else pack(root, [entry.name for entry in root.iterdir()])
    finally:
        if not shared:
            shutil.rmtree(root, ignore_errors=True)


def _run(command: str, file: Path, root: Path, until: int, output: TextIO) -> int:
    keep_freed_memory()
    console, overrides = Console(file=output, width=200), [f"path:experiments_root={json.dumps(str(root))}"]
    try:
        if command == "search":
            return run_search(load_options(search_options, file, overrides), console, True, until=until)[1]
        return run_training(load_options(training_options, file, overrides), console, True, until)[1]
    except (UserError, OSError) as error:
        print(f"{command}: {error}", file=output)
        return 1


def pack(folder: Path, names: list[str]) -> bytes:
    """Return entries of a folder as an archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            archive.add(folder / name, name)
    return content.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Write the entries of an archive into a folder, over those that are there."""
    if content:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
