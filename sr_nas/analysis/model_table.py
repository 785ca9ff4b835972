"""The model table: scores, size, time and memory of several models on several benchmark sets, beside bicubic.

Every measurement of an image is kept in the folder of the table, so that the same command goes on where it was stopped and
measures again only what has changed: a model, how it runs, an image, the machine, or the versions.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sr_nas import __version__
from sr_nas.analysis.crops import crop_picture, extreme_gains
from sr_nas.analysis.model_report import MACS, csv_rows, markdown
from sr_nas.analysis.tables import write_csv, write_numbers
from sr_nas.complexity.macs import complexity
from sr_nas.contracts import SRNetwork
from sr_nas.data.pairs import Pairs
from sr_nas.errors import UserError
from sr_nas.export.model import load_model, trained_file
from sr_nas.images.files import write_image
from sr_nas.inference.images import upscaler
from sr_nas.inference.optimize import RuntimeNetwork, countable
from sr_nas.jobs.evaluate import FROM_HR, open_set
from sr_nas.metrics import PERCEPTUAL_PROTOCOL, PROTOCOL, Metric, Upscale, bicubic, means, perceptual_metrics, score
from sr_nas.options.benchmark import BICUBIC, BenchmarkOptions, Model
from sr_nas.options.load import dump_options
from sr_nas.runs.device import check_precision, is_out_of_memory, peak_memory, pick_device, reset_peak_memory
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import ABANDONED, sweep, write_json, write_text
from sr_nas.runs.run_dir import OPTIONS

MEASUREMENTS = "measurements.json"
PASSES_OF_ENSEMBLE = 8
WARM_UP = 32
"""Side in LR pixels of an image that goes first, untimed: libraries prepare themselves at their first call."""
MEMORY = {
    "cuda": "largest memory that PyTorch allocated on the GPU while one image was upscaled, weights included",
    "reset": "largest resident memory of the whole process while one image was upscaled: Python, PyTorch and the images included",
    "process": "largest resident memory of the process since its start, so a row may show what an earlier one took",
}
SECONDS = "from the LR image to the 8-bit SR image, both in main memory; mean over the images"

Record = dict[str, Any]
"""A measurement of one image: scores, ``seconds``, ``memory_bytes``, and ``crops`` of the first model."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the table: a network and how it runs, or bicubic.

    Attributes:
        name: in the table.
        scale: the only one at which it is measured.
        identity: digest of everything that decides its output.
        network: on the CPU; ``None`` for bicubic.
        options: of the network.
    """

    name: str
    scale: int
    identity: str
    network: SRNetwork | None = field(default=None, repr=False)
    options: Model | None = None

    def upscale(self, device: torch.device) -> Upscale:
        """Return it as a function, with the network on the device until :meth:`release`."""
        if self.network is None or self.options is None:
            return bicubic
        how = self.options
        return upscaler(self.network, tile=how.tile, device=device, precision=how.precision, ensemble=how.ensemble)

    def release(self) -> None:
        """Take the network off the device."""
        if self.network is not None:
            self.network.cpu()


@dataclass(frozen=True)
class BenchmarkSet:
    """A set at one scale.

    Attributes:
        name: in the table.
        scale: HR pixels per LR pixel and side.
        pairs: its images.
        lr: where its LR images come from, for people.
        contents: digest of all HR and LR files.
    """

    name: str
    scale: int
    pairs: Pairs
    lr: str
    contents: str


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of JSON-ready parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


class Bench:
    """Measures images, and keeps the measurements in ``measurements.json`` so that a stopped benchmark goes on.

    Args:
        folder: of the table.
        options: of the benchmark.
        device: where networks run.
        perceptual: learned metrics by name.

    Raises:
        UserError: the measurements are damaged.
    """

    def __init__(self, folder: Path, options: BenchmarkOptions, device: torch.device, perceptual: dict[str, Metric]) -> None:
        self.device, self.perceptual, self.crop = device, perceptual, options.crop
        self.images = folder / "images" if options.save_images else None
        self._file = folder / MEASUREMENTS
        self.cache: dict[str, Any] = {}
        self._warm: set[Entry] = set()
        if self._file.is_file():
            try:
                self.cache = dict(json.loads(self._file.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{self._file} is damaged: {error}. Delete it to measure everything again.") from error
        self.save()

    def save(self) -> None:
        """Write all measurements."""
        write_json(self._file, self.cache)

    def about(self) -> dict[str, Any]:
        """Return the device with its threads, and the versions: measurements are valid for these alone."""
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        else:
            threads = torch.get_num_threads()
            processor = platform.processor() or platform.machine()
            device = f"{self.device.type}, {processor}, {threads} thread{'s' * (threads > 1)}"
        return {"device": device, "versions": {"sr_nas": __version__, "torch": str(torch.__version__)}}

    def records(self, entry: Entry, one: BenchmarkSet, crops: bool) -> Iterator[Record]:
        """Yield the records of a set's images, measuring those that have none.

        Args:
            entry: a model or bicubic.
            one: the set.
            crops: whether to look for the squares of its best and worst against bicubic.

        Raises:
            UserError: an image cannot be read or scored, or does not fit in memory.
        """
        conditions = [self.about(), sorted(self.perceptual), self.crop if crops else None]
        records: list[Record] = self.cache.setdefault(digest(entry.identity, one.scale, one.contents, *conditions), [])
        for index, name in enumerate(one.pairs.names):
            file = self.images and self.images / entry.name / f"{one.name}_x{one.scale}" / f"{name}.png"
            known = index < len(records)
            if not known or (file and not (file.is_file() and file_digest(file) == records[index].get("file"))):
                records[index : index + 1] = [self._measure_or_advise(entry, one, index, crops, file)]
                self.save()
            yield records[index]

    def _measure_or_advise(self, entry: Entry, one: BenchmarkSet, index: int, crops: bool, file: Path | None) -> Record:
        try:
            return self.measure(entry, one, index, crops, file)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            text = f"the memory does not suffice to read, upscale and score {one.pairs.names[index]}."
            if entry.network is not None:
                text += f" Tiles take less: set models.{entry.name}.tile, to 256 for example."
            raise UserError(text) from error

    def measure(self, entry: Entry, one: BenchmarkSet, index: int, crops: bool, file: Path | None) -> Record:
        """Upscale an image, score it, and write it to ``file``."""
        hr, lr, upscale = one.pairs.hr(index), one.pairs.lr(index), entry.upscale(self.device)
        if entry not in self._warm:
            upscale(np.full((WARM_UP, WARM_UP, 3), 128, np.uint8), one.scale)
            self._warm.add(entry)
        reset_peak_memory(self.device)
        start = time.perf_counter()
        sr = upscale(lr, one.scale)
        record: Record = {"seconds": time.perf_counter() - start}
        # On a GPU only PyTorch's own memory is known, not that of another runtime.
        other = self.device.type == "cuda" and isinstance(entry.network, RuntimeNetwork) and not entry.network.in_torch
        record["memory_bytes"] = None if other else peak_memory(self.device)
        record |= score(sr, hr, one.scale, one.pairs.names[index])
        record |= {metric: compare(sr, hr) for metric, compare in self.perceptual.items()}
        if crops:
            record["crops"] = extreme_gains(sr, bicubic(lr, one.scale), hr, one.scale, self.crop)
        if file is not None:
            write_image(file, sr)
            record["file"] = file_digest(file)
        return record


def run_benchmark(options: BenchmarkOptions, console: Console) -> tuple[dict[str, Any], int]:
    """Measure what has not been measured yet; write ``table.json``, ``table.md``, ``table.csv`` and the crops.

    Args:
        options: checked options.
        console: where progress is shown.

    Returns:
        The results as ``table.json`` holds them, and the exit code: 0; 1 where something of the table could not be measured,
        which ``problems`` names; 128 plus the signal that stopped it.

    Raises:
        UserError: a model cannot be loaded, or the folder is that of another run.
    """
    device = pick_device(options.num_gpu)
    for model in filter(None, options.models.values()):
        check_precision(device, model.precision)
    entries = load_entries(options)
    sets, problems = open_sets(options, sorted({entry.scale for entry in entries}))
    metrics = perceptual_metrics(options.perceptual, device)
    folder = _open_folder(Path(options.path.experiments_root) / options.name)
    with GracefulShutdown() as stop:
        for place in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
            sweep(place, ABANDONED)
        write_text(folder / OPTIONS, dump_options(options))
        bench = Bench(folder, options, device, metrics)
        measured, failures = _measure_all(bench, entries, sets, console, stop)
        memory = "cuda" if device.type == "cuda" else "reset" if reset_peak_memory(device) else "process"
        scored = ["psnr", "ssim", *options.perceptual]
        results = {
            "name": options.name,
            "folder": str(folder),
            **bench.about(),
            "protocol": _protocol(sets, options) | {"seconds": SECONDS, "memory": MEMORY[memory]},
            "sets": list(dict.fromkeys(one.name for one in sets)),
            "metrics": scored,
            "models": [_row(entry, measured[entry], sets, scored) for entry in entries],
            "problems": problems + failures,
            "complete": not stop() and not problems and not failures,
        }
        if not stop():
            _draw_crops(folder / "crops", bench, entries, sets, measured)
        write_numbers(folder / "table.json", results)
        write_text(folder / "table.md", markdown(results))
        write_csv(folder / "table.csv", csv_rows(results))
    return results, stop.exit_code or int(bool(results["problems"]))


def _open_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MEASUREMENTS).is_file():
        raise UserError(f"{folder} holds no benchmark but something else. Give the benchmark another name.")
    return folder


def load_entries(options: BenchmarkOptions) -> list[Entry]:
    """Load everything that is to be measured: bicubic by scale, then the models in their order.

    Raises:
        UserError: a model cannot be loaded; the text names all of these.
    """
    networks, problems = [], []
    for name, model in options.models.items():
        if model is not None:
            try:
                networks.append(_load(name, model))
            except UserError as error:
                problems.append(f"models.{name}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    scales: Sequence[int] | None = options.bicubic
    if scales is None:
        scales = [scale for scale in (2, 3, 4) if not networks or any(entry.scale == scale for entry in networks)]
    return [*(Entry(BICUBIC, scale, digest(BICUBIC)) for scale in dict.fromkeys(scales)), *networks]


def _load(name: str, model: Model) -> Entry:
    path = Path(model.path)
    network = load_model(path, model.arch, model.genotype)
    file = trained_file(path) if path.is_dir() else path
    how = [model.ensemble, model.tile, model.precision, network.runtime if isinstance(network, RuntimeNetwork) else None]
    return Entry(name, network.scale, digest(file_digest(file), network.arch, network.settings(), *how), network, model)


def open_sets(options: BenchmarkOptions, scales: Iterable[int]) -> tuple[list[BenchmarkSet], list[dict[str, str]]]:
    """Return the sets that are there, and what is wrong with the others as ``{"where", "text"}``."""
    sets: list[BenchmarkSet] = []
    problems: dict[tuple[str, str], list[int]] = {}
    places = {name: Path(place).expanduser() for name, place in options.datasets.items() if place is not None}
    for name, scale in product(places, scales):
        one = _open(name, places[name], scale)
        if isinstance(one, str):
            problems.setdefault((name, one), []).append(scale)
        else:
            sets.append(one)
    reports = []
    for (name, text), at in problems.items():
        if not places[name].exists():
            fetch = "tools/prepare_data.py fetches published sets, or put its HR images into"
            text += f". {fetch} {places[name]}/HR (see datasets/README.md)"
        advice = f"Name another folder with --force_yml datasets:{name}=FOLDER, or leave it out with datasets:{name}=null."
        reports.append({"where": f"{name} {', '.join(f'x{scale}' for scale in at)}", "text": f"{text}. {advice}"})
    return sets, reports


def _open(name: str, place: Path, scale: int) -> BenchmarkSet | str:
    """Return a set, or what is wrong with it."""
    try:
        _, pairs, lr = open_set(place, scale)
        contents = [file_digest(Path(file)) for files in pairs.files for file in dict.fromkeys(files)]
    except UserError as error:
        return str(error).rstrip(".")
    return BenchmarkSet(name, scale, pairs, lr, digest(pairs.names, contents))


Measured = dict[str, list[Record]]
"""Set -> the records of its images, in their order."""


def _measure_all(
    bench: Bench, entries: Sequence[Entry], sets: Sequence[BenchmarkSet], console: Console, stop: Callable[[], bool]
) -> tuple[dict[Entry, Measured], list[dict[str, str]]]:
    """Return the records of every set that an entry has been through, and why it has not been through others."""
    measured: dict[Entry, Measured] = {entry: {} for entry in entries}
    failures: list[dict[str, str]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total = sum(len(one.pairs) for entry in entries for one in sets if one.scale == entry.scale)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=total)
        for entry in entries:
            for one in (one for one in sets if one.scale == entry.scale):
                progress.update(task, description=f"{entry.name} x{entry.scale} on {one.name}")
                records = []
                try:
                    for record in bench.records(entry, one, crops=entry is _first_model(entries, entry.scale)):
                        records.append(record)
                        progress.advance(task)
                        if stop():
                            return measured, failures
                    measured[entry][one.name] = records
                except UserError as error:
                    failures.append({"where": f"{entry.name} on {one.name} x{one.scale}", "text": str(error)})
            entry.release()
    return measured, failures


def _first_model(entries: Sequence[Entry], scale: int) -> Entry | None:
    """Return the model whose best and worst crops are shown."""
    return next((entry for entry in entries if entry.network is not None and entry.scale == scale), None)


def _draw_crops(
    folder: Path, bench: Bench, entries: Sequence[Entry], sets: Sequence[BenchmarkSet], measured: dict[Entry, Measured]
) -> None:
    """Write ``<set>_x<scale>_best.png`` and ``_worst.png`` of every set, unless they are there and would be the same."""
    for one in sets:
        first = _first_model(entries, one.scale)
        if first is None or one.name not in measured[first]:
            continue
        crops = [record["crops"] for record in measured[first][one.name]]
        models = [
            entry for entry in entries if entry.network is not None and entry.scale == one.scale and one.name in measured[entry]
        ]
        for which, choose in (("best", max), ("worst", min)):
            index = choose(range(len(crops)), key=lambda number: crops[number][which][0])
            box, name = crops[index][which][1], one.pairs.names[index]
            content = digest(name, box, one.contents, [(entry.name, entry.identity) for entry in models])
            file = folder / f"{one.name}_x{one.scale}_{which}.png"
            if bench.cache.get(file.name) == content and file.is_file():
                continue
            hr, lr = one.pairs.hr(index), one.pairs.lr(index)
            results = [(BICUBIC, bicubic(lr, one.scale))]
            for entry in models:
                results.append((entry.name, entry.upscale(bench.device)(lr, one.scale)))
                entry.release()
            crop_picture(file, name, hr, results, box)
            bench.cache[file.name] = content
            bench.save()


def _row(entry: Entry, measured: Measured, sets: Sequence[BenchmarkSet], metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row of the table, JSON-ready."""
    row: dict[str, Any] = {"name": entry.name, "scale": entry.scale}
    if entry.network is not None and entry.options is not None:
        passes = PASSES_OF_ENSEMBLE if entry.options.ensemble else 1
        counts = complexity(countable(entry.network))
        row |= {"params": counts["params"]} | {name: counts[name] * passes for name in MACS}
        row |= {name: getattr(entry.options, name) for name in ("path", "arch", "ensemble", "tile", "precision")}
        row["genotype"] = entry.network.genotype.to_json()
    row["sets"] = {}
    for one in sets:
        if one.scale == entry.scale and one.name in measured:
            records = measured[one.name]
            images = [{name: record[name] for name in (*metrics, "seconds", "memory_bytes")} for record in records]
            memory = [record["memory_bytes"] for record in records if record["memory_bytes"] is not None]
            numbers = means(records, (*metrics, "seconds")) | {"memory_bytes": max(memory, default=None)}
            row["sets"][one.name] = numbers | {"lr": one.lr, "images": dict(zip(one.pairs.names, images, strict=True))}
    return row


def _protocol(sets: Sequence[BenchmarkSet], options: BenchmarkOptions) -> dict[str, str]:
    protocol = PROTOCOL | {name: PERCEPTUAL_PROTOCOL[name] for name in options.perceptual}
    named = dict.fromkeys(f"{one.name} x{one.scale}: {one.lr}" for one in sets if one.lr != FROM_HR)
    return protocol | ({"lr": f"{'; '.join(named)}; elsewhere {PROTOCOL['lr']}"} if named else {})
