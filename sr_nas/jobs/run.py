"""A run: a folder that is begun, or resumed with ``--auto_resume``, by all processes together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

import torch

from sr_nas.data.loader import loader_failure
from sr_nas.errors import UserError, is_out_of_memory, listing, parse_json, reason
from sr_nas.export.model import LAST
from sr_nas.options.load import decisive, differences, dump_options, parse_yaml, plugin_digests, read_yaml
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.registry import PLUGINS
from sr_nas.report.progress import SearchView, TrainView
from sr_nas.runs.device import cores, omp_threads, quickest_threads, use_threads
from sr_nas.runs.distributed import CPU, from_first, world_size
from sr_nas.runs.files import lock, naming, replacing, sweep, write_json, write_text
from sr_nas.runs.run_dir import (
    CHECKPOINT,
    OPTIONS,
    PROVENANCE,
    check_kinds,
    load_checkpoint,
    new_run,
    provenance,
    restoring,
    run_folders,
)

LOG = "log.txt"
Content = TypeVar("Content")


class Run:
    """The folder of a search or a training, its log, and the state to resume from.

    It is a context manager, which closes the log and thereby unlocks the folder. Exhausted memory, a loader's process that has
    ended and an OSError leave it as a UserError, and a KeyboardInterrupt with a text, which say what is saved and how to go on.

    What a run needs is built between :meth:`create_or_resume`, which looks for a folder, and :meth:`open`, which makes or locks
    it: so nothing that is missing leaves a folder behind, and a resumed run is built for the batches that it was begun with.

    Attributes:
        folder: of the run; that of a new run is made by :meth:`open`.
        resumed: the same of a run that is resumed, ``None`` for a new one.
        until: epoch or iteration to stop after, as a signal would; ``None`` for the last one.
        initial_world_size: number of processes that the run was begun with; its batches are ``batch_size_per_gpu`` for each.
        state: of the checkpoint, ``None`` for a new run; set by :meth:`open`.
        notes: lines to say when the run begins.
        threads: of this process on the CPU; set by :meth:`take_threads`.
        log: written by the first process only.
    """

    def __init__(
        self, options: AnySearch | AnyTraining, folder: Path | None, starts: list[dict[str, Any]], notes: Sequence[str] = ()
    ) -> None:
        self.options, self.resumed, self._starts, self.notes = options, folder, starts, list(notes)
        self.initial_world_size = int(starts[0]["processes"]) if starts else world_size()
        self.folder = folder or Path(options.path.experiments_root) / options.name
        self.state: dict[str, Any] | None = None
        self._opened = False
        self.until: int | None = None
        self.threads = 1
        self.log = logging.getLogger(f"{__name__}.silent")
        self.log.propagate = False
        self.log.addHandler(logging.NullHandler())

    @classmethod
    def create_or_resume(cls, options: AnySearch | AnyTraining, auto_resume: bool, until: int | None = None) -> Run:
        """Find the newest run of these options to resume, or none; :meth:`open` then makes the folder or loads the checkpoint.

        The first process looks, and the others receive the result: they need not see its disk.

        Raises:
            UserError: all runs of this name have other options, or the processes cannot share the batches equally.
        """
        run = cls(options, *from_first(lambda: _find(options) if auto_resume else (None, [], [])))
        run.until = until
        if run.batch % world_size():
            fitting = listing(count for count in range(1, run.batch + 1) if run.batch % count == 0)
            raise UserError(
                f"{options.name} was begun with batches of {run.batch}, which {world_size()} processes cannot share equally. "
                f"Go on with another number of them: {fitting}."
            )
        return run

    @property
    def batch(self) -> int:
        """Samples of a batch, of all processes together."""
        return int(self.options.datasets.train.batch_size_per_gpu) * self.initial_world_size

    def take_threads(self, measures: bool, loop: Any, step: Callable[[], object]) -> None:
        """Set the threads of this process, and notes on them. Results on a CPU depend on them, so a resumed run keeps them.

        ``"auto"`` of a new run is OMP_NUM_THREADS, else the quickest number where it ``measures``, else all cores. To measure,
        ``step`` takes steps of the ``loop``, whose ``state_dict`` and ``load_state_dict`` make it what it was.
        """
        wanted, notes = self.options.num_threads, self.notes
        if self._starts:
            self.threads = use_threads(int(self._starts[0]["threads"]))
            asked = f"num_threads {wanted}" if wanted != "auto" else f"OMP_NUM_THREADS {omp_threads() or self.threads}"
            if asked.split()[1] != str(self.threads):
                notes.append(f"{asked} is for new runs: this one keeps its threads, on which results depend")
        elif wanted == "auto" and measures and not omp_threads() and world_size() == 1 < cores():
            state = deepcopy(loop.state_dict())
            with torch.random.fork_rng(devices=[]):
                self.threads, figures = quickest_threads(step)
            loop.load_state_dict(state)
            notes.append(f"num_threads auto is {self.threads} here: a step takes {figures}")
        else:
            self.threads = use_threads(wanted)
            if wanted == "auto" and omp_threads():
                notes.append(f"num_threads auto is {self.threads} here, as OMP_NUM_THREADS says")
        if self.threads > cores():
            notes.append(f"{self.threads} threads are more than the cores that this process may use, {cores()}: it will be slow")

    def open(self, device: torch.device, images: Mapping[str, int | None]) -> Run:
        """Make the folder, or lock it and load its checkpoint, which also sets PyTorch's random states.

        The names of the images and the bytes of their files are recorded. Where a training has others than it was begun with,
        that is a note; in a search, whose halves would mix, an error.

        Raises:
            UserError: another process runs in the folder, its checkpoint cannot be read, or a search has other images.
        """
        self.folder, self.state = from_first(lambda: self._open(device, images))
        self._opened = True
        return self

    def restore(self, load: Callable[[dict[str, Any]], object], fresh: dict[str, Any]) -> None:
        """Hand the state of a resumed run to ``load``; a UserError if it is no state of this run, whose first is ``fresh``."""
        if self.state is not None:
            try:
                with restoring(self.folder / CHECKPOINT):
                    check_kinds(self.state, fresh)
                    load(self.state)
            except UserError as error:
                raise UserError(f"{error} {_anew(self.folder)}") from error

    def _open(self, device: torch.device, images: Mapping[str, int | None]) -> tuple[Path, dict[str, Any] | None]:
        if self.resumed is None:
            self.folder = new_run(Path(self.options.path.experiments_root), self.options.name)
            write_text(self.folder / OPTIONS, dump_with_plugins(self.options, self.folder))
        self.log = _open_log(self.folder)
        state = None
        if self.resumed is not None:
            try:
                sweep(self.folder)
                # With several processes each moves the state to its own device.
                state = load_checkpoint(self.folder / CHECKPOINT, device if world_size() == 1 else CPU)
            except UserError as error:
                raise UserError(f"{error} So the run cannot go on. {_anew(self.folder)}") from error
        start = provenance(self.options.manual_seed, device)
        if plugins := plugin_digests({"plugin": self.options.plugin}):
            start["plugins"] = plugins
            self.notes += [f"plug-in {name}, {digest[:19]}" for name, digest in plugins.items()]
        known = next((start["images"] for start in self._starts if "images" in start), None)
        if known is None:
            start["images"] = dict(images)
        elif change := _change(known, images):
            change = f"{self.folder} was begun with other images: {change}"
            if isinstance(self.options, AnySearch):
                raise UserError(
                    f"{change}. The halves of a search, one for the weights and one for alpha, would mix. "
                    "Put back the images, or start a new run without --auto_resume."
                )
            self.notes.append(change)
        write_json(self.folder / PROVENANCE, [*self._starts, start])
        return self.folder, state

    def say(self, view: SearchView | TrainView, *lines: str) -> None:
        """Log lines, and show them to whoever watches the run."""
        for line in lines:
            self.log.info("%s", line)
            view.message(line)

    def begins(self, verb: str, device: str) -> str:
        """Return the beginning of a run's first line: what it does, where, on which device and data."""
        data, size = self.options.datasets.train, world_size()
        share = f", batches of {self.batch}, {self.batch // size} for each of {size} process{'es' * (size > 1)}"
        alone = self.initial_world_size == size == 1
        where = f"{self.folder} on {device} (threads: {self.threads})"
        return f"{verb if self.state is None else 'going on'} in {where} with {data.name or data.type}{'' if alone else share}"

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        blow = self._blow(error) if isinstance(error, Exception) else ""
        if blow or isinstance(error, KeyboardInterrupt):
            has_state = (self._opened or self.resumed) and (self.folder / CHECKPOINT).is_file()
            saved = f"The last checkpoint is {self.folder / CHECKPOINT}; --auto_resume goes on from it."
            text = f"{blow} {saved if has_state else 'Nothing is saved yet.'}".strip()
            with suppress(OSError):  # the log too may be on a disk that is full
                self.log.info("%s", text if blow else f"stopped at once. {text}")
        for handler in list(self.log.handlers):
            self.log.removeHandler(handler)
            with suppress(OSError):
                handler.close()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(text) from error
        if blow:
            raise UserError(text) from error

    def _blow(self, error: Exception) -> str:
        """Say what has hit the run from outside, and what to do; nothing for an error that says so itself, or is a bug."""
        if is_out_of_memory(error):
            return f"the memory does not suffice. To take less, {less_memory(self.options)}, in a new run."
        if lost := loader_failure(error):
            return (
                f"a process that reads images ahead has failed: {lost}. Memory may be short, or in a container /dev/shm "
                "(docker run --shm-size). With datasets.train.num_worker_per_gpu: 0 there are no such processes."
            )
        return reason(error) if isinstance(error, OSError) else ""


def dump_with_plugins(options: AnySearch | AnyTraining, folder: Path) -> str:
    """Copy the plug-ins of options into a folder; return the content of an option file there, which names the copies.

    Raises:
        UserError: the folder has another plug-in of the same name.
    """
    copies = {file: folder / Path(file).name for file in options.plugin or ()}
    for file, copy in copies.items():
        if copy.exists() and copy.read_bytes() != PLUGINS[file]:
            raise UserError(f"{copy} is another version of {file}, or another plug-in: give it back, or take another name.")
        with replacing(copy) as temporary:
            temporary.write_bytes(PLUGINS[file])
    return dump_options(options.model_copy(update={"plugin": [copy.name for copy in copies.values()] or None}))


def less_memory(options: AnySearch | AnyTraining) -> str:
    """Return the options that make a run take less memory, as a clause of advice."""
    network, data, search = options.network_g.arguments(), options.datasets.train, isinstance(options, AnySearch)
    size, more = getattr(data, "gt_size", 0), "" if search else " and raise train.accumulate instead"
    ways = {
        "set network_g.execution to fused": network.get("execution") == "plain",
        "set network_g.checkpointing to true, which computes more and keeps less": network.get("checkpointing") is False,
        f"raise network_g.partial_channel (K, now {network.get('partial_channel')})": "partial_channel" in network,
        f"set datasets.train.num_worker_per_gpu (now {data.num_worker_per_gpu}) to 0": data.num_worker_per_gpu > 0,
        f"lower datasets.train.batch_size_per_gpu (now {data.batch_size_per_gpu}){more}": data.batch_size_per_gpu > 1,
        f"lower datasets.train.gt_size (now {size})": size > 0,
        "set search.order to first": isinstance(options, AnySearch) and options.search.order == "second",
        "validate on smaller images": not search,
    }
    *most, last = [way for way, possible in ways.items() if possible] or ["take a smaller network_g"]
    return f"{', '.join(most)} or {last}" if most else last


def _anew(folder: Path) -> str:
    """Return how to start anew where a folder's run cannot go on."""
    kept = f", from its weights with path.pretrain_network_g={folder / LAST}" if (folder / LAST).is_file() else ""
    return f"Start a new run without --auto_resume{kept}."


def _find(options: AnySearch | AnyTraining) -> tuple[Path | None, list[dict[str, Any]], list[str]]:
    """Return the newest run of these options, ``None`` where there is none, how it was started so far, and remarks."""
    folders, notes, others = run_folders(Path(options.path.experiments_root), options.name), [], []
    new = decisive(parse_yaml(dump_options(options), "options")) if folders else {}
    for folder in folders:
        if not (folder / CHECKPOINT).is_file():
            notes.append(f"{folder} has no {CHECKPOINT}, so that run cannot go on")
            continue
        old = decisive(_read(folder, OPTIONS, read_yaml))
        if old == new:
            return folder, _read_starts(folder), notes
        # The folder x_2 may be the second run of x or the first of x_2; and a search and a training may share a name.
        if old.get("name") == options.name and ("search" in old) == ("search" in new):
            others.append((folder, old))
    if others:
        folder, old = others[0]
        raise UserError(
            f"{folder} was made with other options, so it cannot go on with these:\n  "
            + "\n  ".join(differences(old, new))
            + f"\n{_anew(folder)} Or give back the old options."
        )
    return None, [], notes


def _change(old: Mapping[str, int | None], new: Mapping[str, int | None]) -> str:
    """Return in what two sets of images, name -> bytes, differ; nothing where they do not."""
    resized = sorted(name for name in set(old) & set(new) if old[name] != new[name])
    parts = {"new": sorted(set(new) - set(old)), "missing": sorted(set(old) - set(new)), "of another size in bytes": resized}
    texts = [f"{word} {'is' if len(names) == 1 else 'are'} {listing(names, 5)}" for word, names in parts.items() if names]
    return "; ".join(texts) or ("their order" if list(old) != list(new) else "")


def _read_starts(folder: Path) -> list[dict[str, Any]]:
    """Return one provenance record for every time that a run was begun or resumed."""

    def read(file: Path) -> list[dict[str, Any]]:
        starts = parse_json(file.read_bytes(), file, halves="surrogateescape")
        first = starts[0] if isinstance(starts, list) and starts else None
        numbers = [first.get(key) for key in ("processes", "threads")] if isinstance(first, dict) else [None]
        if any(type(number) is not int or not 1 <= number <= most for number, most in zip(numbers, (2**31, 1024), strict=False)):
            raise UserError(f"{file} is damaged: a list is expected whose first entry tells the number of processes and threads.")
        for start in starts:
            images = start.get("images", {}) if isinstance(start, dict) else None
            if not isinstance(images, dict) or not all(size is None or type(size) is int for size in images.values()):
                raise UserError(f"{file} is damaged: entries are expected that name the images and their bytes.")
        return starts

    return _read(folder, PROVENANCE, read)


def _read(folder: Path, name: str, read: Callable[[Path], Content]) -> Content:
    """Return what ``read`` makes of a file of the run; of errors the user is told that it cannot go on."""
    try:
        if not (folder / name).is_file():
            raise UserError(f"{folder} has lost its {name}.")
        return read(folder / name)
    except UserError as error:
        raise UserError(f"{error} So this run cannot go on; start a new one without --auto_resume.") from error


class _LogFile(logging.FileHandler):
    """A log whose errors are those of the run: by default, logging prints a traceback and goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise the error that is being handled."""
        with naming(Path(self.baseFilename)):
            raise


def _open_log(folder: Path) -> logging.Logger:
    logger = logging.getLogger(f"sr_nas.{folder.resolve()}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = _LogFile(folder / LOG, encoding="utf-8", errors="backslashreplace")
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
