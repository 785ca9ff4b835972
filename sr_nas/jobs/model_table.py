"""Measurements that are kept as they are made, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sr_nas import __version__
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
from sr_nas.report.tables import MACS, crop_picture, extreme_gains, finite, write_csv, write_markdown
from sr_nas.runs.device import check_precision, is_out_of_memory, peak_memory, pick_device, reset_peak_memory
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import lock, sweep, write_json, write_text
from sr_nas.runs.run_dir import OPTIONS

MEASUREMENTS = "measurements.jsonl"


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that differ where the parts, all JSON-ready, differ."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            content = hashlib.sha256()
            while block := stream.read(1 << 20):
                content.update(block)
            return content.hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


class Measurements:
    """Records by key, each written as one line of JSON as soon as it is added; a later one of a key replaces it."""

    def __init__(self, file: Path, stream: Any, records: dict[str, dict[str, Any]]) -> None:
        self._file, self._stream, self._records = file, stream, records

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record of a key, or ``None``."""
        return self._records.get(key)

    def add(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write a record and return it."""
        self._stream.write(json.dumps({"key": key, **record}) + "\n")
        self._stream.flush()
        self._records[key] = record
        return record


@contextmanager
def measurements(folder: Path) -> Iterator[Measurements]:
    """Open the measurements of a folder; no other process can until the block ends.

    A half-written last line, left by a kill, is dropped.

    Raises:
        UserError: another process is measuring there, or a line is damaged.
    """
    file = folder / MEASUREMENTS
    with file.open("a", encoding="utf-8") as stream:
        try:
            lock(stream)
        except BlockingIOError as error:
            raise UserError(
                f"another process is measuring in {folder}. Wait for it, or give this benchmark another name."
            ) from error
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            stream.truncate(whole)
        records = {}
        try:
            for line in content[:whole].decode().splitlines():
                record = json.loads(line)
                records[record.pop("key")] = record
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}. Delete it to measure everything again.") from error
        yield Measurements(file, stream, records)


# MERGED sr_nas.jobs.model_table: What a benchmark measures: networks as they are to run, and bicubic.


ALL_SCALES = (2, 3, 4)


@dataclass(frozen=True, eq=False)
class Contestant:
    """A row of the table.

    Attributes:
        name: in the table.
        scale: the only one at which it is measured.
        weights: digest of the file and of what says how to read it.
        identity: digest of everything that decides its output: the weights and how they run.
        network: on the CPU; ``None`` for bicubic.
        options: of the network.
    """

    name: str
    scale: int
    weights: str
    identity: str
    network: SRNetwork | None = field(default=None, repr=False)
    options: Model | None = None

    def upscale(self, device: torch.device) -> Upscale:
        """Return it as a function; :meth:`rest` takes the network off the device again."""
        if self.network is None or self.options is None:
            return bicubic
        how = self.options
        return upscaler(self.network, tile=how.tile, device=device, precision=how.precision, ensemble=how.ensemble)

    def in_torch(self) -> bool:
        """Whether PyTorch allocates the memory it runs in."""
        return not isinstance(self.network, RuntimeNetwork) or self.network.in_torch

    def rest(self) -> None:
        """Leave the device to others."""
        if self.network is not None:
            self.network.cpu()


def contestants(options: BenchmarkOptions) -> list[Contestant]:
    """Load everything that is to be measured: bicubic by scale, then the models in their order.

    Raises:
        UserError: a model cannot be loaded; the text names all of these.
    """
    networks, problems = [], []
    for name, model in options.models.items():
        if model is not None:
            try:
                networks.append(_network(name, model))
            except UserError as error:
                problems.append(f"models.{name}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    own = [scale for scale in ALL_SCALES if not networks or any(one.scale == scale for one in networks)]
    scales = own if options.bicubic is None else options.bicubic
    baselines = [Contestant(BICUBIC, scale, digest(BICUBIC), digest(BICUBIC)) for scale in dict.fromkeys(scales)]
    return [*baselines, *networks]


def _network(name: str, model: Model) -> Contestant:
    path = Path(model.path)
    network = load_model(path, model.arch, model.genotype)
    weights = digest(file_digest(trained_file(path) if path.is_dir() else path), network.arch, network.settings())
    runtime = (network.runtime,) if isinstance(network, RuntimeNetwork) else ()
    identity = digest(weights, model.ensemble, model.tile, model.precision, *runtime)
    return Contestant(name, network.scale, weights, identity, network, model)


# MERGED sr_nas.jobs.model_table: One image through one contestant: its scores, time and memory, and where it
# differs from bicubic.


WARM_UP = 32
"""Side in LR pixels of the image that goes first, untimed."""

MEMORY = {
    "cuda": "largest memory that PyTorch allocated on the GPU while one image was upscaled, weights included",
    "reset": "largest resident memory of the whole process while one image was upscaled: Python, PyTorch and the images included",
    "process": "largest resident memory of the process since its start, so a row may show what an earlier one took",
}
SECONDS = "from the LR image to the 8-bit SR image, both in main memory; mean over the images"


@dataclass(frozen=True)
class Bench:
    """What all measurements of a benchmark have in common.

    Attributes:
        device: where networks run.
        kept: what has been measured before.
        perceptual: further metrics by name.
        crop: side of the crops in HR pixels.
        images: folder of the SR images, or ``None`` to keep none.
    """

    device: torch.device
    kept: Measurements
    perceptual: dict[str, Metric]
    crop: int
    images: Path | None
    _warm: set[Contestant] = field(default_factory=set, init=False)

    def machine(self) -> str:
        """The device and its threads: times are its own."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        return f"{self.device.type}, {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"

    def versions(self) -> dict[str, str]:
        """What else decides a result."""
        return {"sr_nas": __version__, "torch": str(torch.__version__)}

    def memory(self) -> str:
        """What the figures of memory are here."""
        if self.device.type == "cuda":
            return MEMORY["cuda"]
        return MEMORY["reset" if reset_peak_memory(self.device) else "process"]

    def key(self, contestant: Contestant, bench_set: BenchmarkSet, index: int) -> str:
        """What a measurement is of: it is made again where any of this differs."""
        return digest(contestant.identity, bench_set.scale, bench_set.contents[index], self.machine(), self.versions())

    def image_file(self, contestant: Contestant, bench_set: BenchmarkSet, index: int) -> Path | None:
        """Where the SR image is kept."""
        if self.images is None:
            return None
        return self.images / contestant.name / f"{bench_set.name}_x{bench_set.scale}" / f"{bench_set.pairs.names[index]}.png"

    def recall(self, contestant: Contestant, bench_set: BenchmarkSet, index: int, judges: bool) -> dict[str, Any] | None:
        """Return the record of an image if it holds all that is asked for now; else it is to be measured."""
        record = self.kept.get(self.key(contestant, bench_set, index))
        if record is None or any(name not in record for name in self.perceptual):
            return None
        if judges and record.get("crops", {}).get("side") != self.crop:
            return None
        file = self.image_file(contestant, bench_set, index)
        if file is not None and (not file.is_file() or file_digest(file) != record.get("file")):
            return None
        return record

    def measure(
        self, contestant: Contestant, upscale: Upscale, bench_set: BenchmarkSet, index: int, judges: bool
    ) -> dict[str, Any]:
        """Measure and keep an image.

        Args:
            contestant: what is measured.
            upscale: the same as a function.
            bench_set: the set.
            index: of the image.
            judges: whether to look for the crops of its best and worst against bicubic.

        Raises:
            UserError: the image cannot be read or scored, or does not fit in memory.
        """
        try:
            return self._measure(contestant, upscale, bench_set, index, judges)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            tile = (
                "" if contestant.network is None else f" Tiles take less: set models.{contestant.name}.tile, to 256 for example."
            )
            raise UserError(
                f"the memory does not suffice to read, upscale and score {bench_set.pairs.names[index]}.{tile}"
            ) from error

    def _measure(
        self, contestant: Contestant, upscale: Upscale, bench_set: BenchmarkSet, index: int, judges: bool
    ) -> dict[str, Any]:
        name, scale = bench_set.pairs.names[index], bench_set.scale
        hr, lr = bench_set.pairs.hr(index), bench_set.pairs.lr(index)
        if contestant not in self._warm:
            # Libraries prepare themselves at their first call; its time is no image's.
            upscale(np.full((WARM_UP, WARM_UP, 3), 128, np.uint8), scale)
            self._warm.add(contestant)
        reset_peak_memory(self.device)
        start = time.perf_counter()
        sr = upscale(lr, scale)
        record: dict[str, Any] = {"seconds": time.perf_counter() - start}
        # On a GPU only PyTorch's own memory is known: that of another runtime is not stated.
        known = self.device.type != "cuda" or contestant.in_torch()
        record["memory_bytes"] = peak_memory(self.device) if known else None
        record |= score(sr, hr, scale, name)
        record |= {metric: compare(sr, hr) for metric, compare in self.perceptual.items()}
        if judges:
            record["crops"] = {"side": self.crop, **extreme_gains(sr, bicubic(lr, scale), hr, scale, self.crop)}
        file = self.image_file(contestant, bench_set, index)
        if file is not None:
            write_image(file, sr)
            record["file"] = file_digest(file)
        about = {"model": contestant.name, "set": bench_set.name, "scale": scale, "image": name}
        return self.kept.add(self.key(contestant, bench_set, index), about | record)


# MERGED sr_nas.jobs.model_table: The sets of a benchmark at every scale that it needs, and what is missing
# of them.


@dataclass(frozen=True)
class BenchmarkSet:
    """A set at one scale.

    Attributes:
        name: in the table.
        scale: HR pixels per LR pixel and side.
        pairs: its images.
        lr: where its LR images come from, for people.
        contents: a digest of HR and LR of every image.
    """

    name: str
    scale: int
    pairs: Pairs
    lr: str
    contents: list[str]


@dataclass(frozen=True)
class Problem:
    """Why something of the table is not there."""

    where: str
    text: str


def benchmark_sets(options: BenchmarkOptions, scales: Iterable[int]) -> tuple[list[BenchmarkSet], list[Problem]]:
    """Open the sets; return those that are there, and what is wrong with the others."""
    found: list[BenchmarkSet] = []
    problems: dict[tuple[str, str], list[int]] = {}
    for name, place in options.datasets.items():
        for scale in scales if place is not None else ():
            opened = _open(name, Path(str(place)).expanduser(), scale)
            if isinstance(opened, BenchmarkSet):
                found.append(opened)
            else:
                problems.setdefault((name, opened), []).append(scale)
    told = [
        Problem(
            f"{name} {', '.join(f'x{scale}' for scale in at)}",
            f"{text.rstrip('.')}.{_where_to_get(Path(str(options.datasets[name])).expanduser())} Name another folder with "
            f"--force_yml datasets:{name}=FOLDER, or leave it out with datasets:{name}=null.",
        )
        for (name, text), at in problems.items()
    ]
    return found, told


def _where_to_get(place: Path) -> str:
    # What is there and cannot be used is not mended by fetching it.
    if place.exists():
        return ""
    return f" tools/prepare_data.py fetches published sets, or put its HR images into {place}/HR (see datasets/README.md)."


def _open(name: str, place: Path, scale: int) -> BenchmarkSet | str:
    """Return the set, or what is wrong with it."""
    try:
        _, pairs, lr = open_set(place, scale)
        contents = [digest(*(file_digest(Path(file)) for file in dict.fromkeys(files))) for files in pairs.files]
    except UserError as error:
        return str(error)
    return BenchmarkSet(name, scale, pairs, lr, contents)


# MERGED sr_nas.jobs.model_table: Pictures of the places of a set where the first model gains most and
# least over bicubic.


Found = dict[str, list[dict[str, Any]]]
"""Set -> the records of its images, in their order."""


def judge(entries: Sequence[Contestant], scale: int) -> Contestant | None:
    """Return the first model of a scale: its best and worst are shown."""
    return next((entry for entry in entries if entry.network is not None and entry.scale == scale), None)


def draw_crops(
    folder: Path, bench: Bench, entries: Sequence[Contestant], sets: Sequence[BenchmarkSet], found: dict[Contestant, Found]
) -> None:
    """Write ``<set>_x<scale>_best.png`` and ``_worst.png`` of every set, unless they are there and would be the same."""
    for one in sets:
        first = judge(entries, one.scale)
        if first is None or one.name not in found[first]:
            continue
        crops = [record["crops"] for record in found[first][one.name]]
        shown = [
            entry for entry in entries if entry.network is not None and one.name in found[entry] and entry.scale == one.scale
        ]
        for which, choose in (("best", max), ("worst", min)):
            index = choose(range(len(crops)), key=lambda number: crops[number][which][0])
            _draw(folder / f"{one.name}_x{one.scale}_{which}.png", bench, shown, one, index, tuple(crops[index][which][1]))


def _draw(file: Path, bench: Bench, shown: Sequence[Contestant], one: BenchmarkSet, index: int, box: Any) -> None:
    name = one.pairs.names[index]
    content = digest(name, box, one.contents[index], one.scale, [(entry.name, entry.identity) for entry in shown])
    key = f"picture {file.name}"
    drawn = bench.kept.get(key)
    if drawn is not None and drawn["content"] == content and file.is_file() and file_digest(file) == drawn["file"]:
        return
    hr, lr = one.pairs.hr(index), one.pairs.lr(index)
    results = [(BICUBIC, bicubic(lr, one.scale))]
    for entry in shown:
        results.append((entry.name, entry.upscale(bench.device)(lr, one.scale)))
        entry.rest()
    crop_picture(file, name, hr, results, box)
    bench.kept.add(key, {"content": content, "file": file_digest(file)})


# MERGED sr_nas.jobs.model_table: Several models on several sets, in one table.


PASSES_OF_ENSEMBLE = 8
COST = ("seconds", "memory_bytes")


def run_benchmark(options: BenchmarkOptions, console: Console) -> tuple[dict[str, Any], int]:
    """Measure what has not been measured yet, and write the table.

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
    for model in options.models.values():
        if model is not None:
            check_precision(device, model.precision)
    entries = contestants(options)
    sets, problems = benchmark_sets(options, sorted({entry.scale for entry in entries}))
    metrics = perceptual_metrics(options.perceptual, device)
    scored = ["psnr", "ssim", *options.perceptual]
    folder = open_folder(Path(options.path.experiments_root) / options.name)
    with measurements(folder) as kept, GracefulShutdown() as stop:
        for place in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
            sweep(place)
        write_text(folder / OPTIONS, dump_options(options))
        bench = Bench(device, kept, metrics, options.crop, folder / "images" if options.save_images else None)
        found, failures = _measure_all(bench, entries, sets, console, stop)
        results = {
            "name": options.name,
            "folder": str(folder),
            "device": bench.machine(),
            "versions": bench.versions(),
            "protocol": _protocol(sets, options) | {"seconds": SECONDS, "memory": bench.memory()},
            "sets": list(dict.fromkeys(one.name for one in sets)),
            "metrics": scored,
            "models": [_row(entry, kept, found[entry], sets, scored) for entry in entries],
            "problems": [{"where": problem.where, "text": problem.text} for problem in (*problems, *failures)],
            "complete": not stop() and not problems and not failures,
        }
        if not stop():
            draw_crops(folder / "crops", bench, entries, sets, found)
        write_json(folder / "table.json", finite(results))
        write_markdown(folder / "table.md", results)
        write_csv(folder / "table.csv", results)
    return results, stop.exit_code or int(bool(results["problems"]))


def open_folder(folder: Path) -> Path:
    """Return the folder of a benchmark, made if it is missing.

    Raises:
        UserError: it holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MEASUREMENTS).is_file():
        raise UserError(f"{folder} holds no benchmark but something else. Give the benchmark another name.")
    (folder / MEASUREMENTS).touch()
    return folder


def _measure_all(
    bench: Bench,
    entries: Sequence[Contestant],
    sets: Sequence[BenchmarkSet],
    console: Console,
    stop: Callable[[], bool],
) -> tuple[dict[Contestant, Found], list[Problem]]:
    """Return the records of every set that a contestant has been through, and why it has not been through others."""
    found: dict[Contestant, Found] = {entry: {} for entry in entries}
    failures: list[Problem] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    pairs = [(entry, one) for entry in entries for one in sets if one.scale == entry.scale]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=sum(len(one.pairs) for _, one in pairs))
        for entry in entries:
            upscale = entry.upscale(bench.device)
            for one in (one for contestant, one in pairs if contestant is entry):
                progress.update(task, description=f"{entry.name} x{entry.scale} on {one.name}")
                try:
                    records = []
                    for index in range(len(one.pairs)):
                        if stop():
                            return found, failures
                        judges = entry is judge(entries, entry.scale)
                        records.append(
                            bench.recall(entry, one, index, judges) or bench.measure(entry, upscale, one, index, judges)
                        )
                        progress.advance(task)
                    found[entry][one.name] = records
                except UserError as error:
                    failures.append(Problem(f"{entry.name} on {one.name} x{one.scale}", str(error)))
            entry.rest()
    return found, failures


def _row(
    entry: Contestant, kept: Measurements, found: Found, sets: Sequence[BenchmarkSet], metrics: Sequence[str]
) -> dict[str, Any]:
    """Return a row of the table, JSON-ready."""
    row: dict[str, Any] = {"name": entry.name, "scale": entry.scale}
    if entry.network is not None and entry.options is not None:
        key = digest("complexity", entry.weights)
        passes = PASSES_OF_ENSEMBLE if entry.options.ensemble else 1
        counted = kept.get(key) or kept.add(key, {"model": entry.name, **complexity(countable(entry.network))})
        row |= {name: counted[name] * (1 if name == "params" else passes) for name in ("params", *MACS)}
        row |= {name: getattr(entry.options, name) for name in ("path", "arch", "ensemble", "tile", "precision")}
        row["genotype"] = entry.network.genotype.to_json()
    row["sets"] = {}
    for one in sets:
        records = found.get(one.name)
        if records is not None and one.scale == entry.scale:
            memory = [record["memory_bytes"] for record in records if record["memory_bytes"] is not None]
            images = dict(
                zip(one.pairs.names, ({name: record[name] for name in (*metrics, *COST)} for record in records), strict=True)
            )
            row["sets"][one.name] = {
                **means(records, (*metrics, "seconds")),
                "memory_bytes": max(memory, default=None),
                "lr": one.lr,
                "images": images,
            }
    return row


def _protocol(sets: Sequence[BenchmarkSet], options: BenchmarkOptions) -> dict[str, str]:
    found = PROTOCOL | {name: PERCEPTUAL_PROTOCOL[name] for name in options.perceptual}
    own = list(dict.fromkeys(f"{one.name} x{one.scale}: {one.lr}" for one in sets if one.lr != FROM_HR))
    return found | ({"lr": f"{'; '.join(own)}; elsewhere {PROTOCOL['lr']}"} if own else {})
