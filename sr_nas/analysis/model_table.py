"""Measurements of several models on several benchmark sets, beside bicubic: scores, size, time, memory, best and worst crops.

Every measurement of an image is kept in the folder of the table, so that the same command goes on where it was stopped and
measures again only what has changed: a model, how it runs, an image, the machine, or the versions.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, PositiveInt, TypeAdapter, model_validator
from rich.console import Console
from rich.progress import Progress
from typing_extensions import TypedDict

from sr_nas import __version__
from sr_nas.complexity.costs import complexity
from sr_nas.contracts import SRNetwork
from sr_nas.data.degradation import Degradation, degraded
from sr_nas.data.sources import Pairs, benchmark_set
from sr_nas.errors import UserError, is_out_of_memory, parse_json
from sr_nas.export.model import load_model, model_file, trained_file
from sr_nas.images.files import write_image
from sr_nas.inference.images import upscaler
from sr_nas.inference.optimize import RuntimeNetwork, countable
from sr_nas.metrics import PERCEPTUAL_PROTOCOL, PROTOCOL, Upscale, bicubic, means, perceptual_metrics, psnr, score
from sr_nas.options.load import dump_options
from sr_nas.options.sections import OutputPath, Plugins, RunName, Steps, Threads
from sr_nas.options.strict import GenotypeSource, ModelPath, Strict
from sr_nas.report.plots import Box, Image, comparison_figure, extreme_gains, save
from sr_nas.runs.device import check_precision, peak_memory, pick_device, reset_peak_memory, use_threads
from sr_nas.runs.files import ABANDONED, holds_nothing, sweep, write_json, write_text
from sr_nas.runs.run_dir import OPTIONS

BICUBIC = "bicubic"
MACS = ("macs_lr_1280x720", "macs_hr_1280x720")
FROM_HR = "made from HR"
"""What tables say of LR images that no folder holds."""
MEASUREMENTS = "measurements.json"
MEMORY = {
    "cuda": "largest memory that PyTorch allocated on the GPU while one image was upscaled, weights included",
    "reset": "largest resident memory of the whole process while one image was upscaled: Python, PyTorch and the images included",
    "process": "largest resident memory of the process since its start, so a row may show what an earlier one took",
}
SECONDS = "from the LR image to the 8-bit SR image, both in main memory; mean over the images"

Record = dict[str, Any]
"""A measurement of one image: scores, ``seconds``, ``memory_bytes``, and ``crops`` of the first model of a scale."""
Problem = dict[str, str]
"""``where`` and ``text``: what is missing from the table, and why."""


class Model(Strict):
    """A network to measure, and how it runs."""

    path: ModelPath
    """Exported file, folder of a training, released weights (.pth, .pt) with arch, or a name that `sr-nas models` lists."""
    arch: str | None = None
    """Architecture of released weights, e.g. imdn or dlsr."""
    genotype: GenotypeSource | None = None
    """Genotype of released weights that do not tell it."""
    ensemble: bool = False
    """x8 self-ensemble: the mean over the flips and turns of the image."""
    tile: PositiveInt | None = None
    """Side of the tiles in LR pixels; by default the network sees whole images."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the network under bfloat16 autocast."""


def _or_empty(value: Any) -> Any:
    # A key with nothing but comments below it is null in YAML.
    return {} if value is None else value


class Degradations(Strict):
    """What else networks are measured on."""

    degradations: Annotated[
        dict[RunName, Steps], BeforeValidator(_or_empty, json_schema_input_type=dict[RunName, Steps] | None)
    ] = Field(default_factory=dict)
    """Name -> steps, as datasets.train.degradation of a training has them: every set is measured with each of them too."""

    def of(self, name: str, pairs: Pairs, lr: Any) -> Iterator[tuple[str, Pairs, str]]:
        """Yield a set with its LR images from the folder ``lr`` or made from HR, then with each degradation of them.

        It is the name, the pairs, and what the LR images are.
        """
        origin = str(lr or FROM_HR)
        yield name, pairs, origin
        for key, steps in self.degradations.items():
            begin = "HR" if Degradation(steps).begins_with_hr else origin
            yield f"{name}-{key}", degraded(pairs, steps), f"{begin}, then {key}"

    def protocol(self) -> dict[str, str]:
        """Name -> its steps as they are written, for people and for JSON."""
        return {
            key: json.dumps([step.model_dump(exclude_unset=True) for step in steps]) for key, steps in self.degradations.items()
        }


class BenchmarkOptions(Degradations):
    """An option file of ``tools/evaluate.py``."""

    name: RunName
    """Name of the benchmark and of its folder, in which it goes on with what it has measured."""
    plugin: Plugins | None = None
    """Python file, or several, that register the networks of models; their paths are relative to the file that names them."""
    num_gpu: Literal["auto", 0, 1] = "auto"
    """auto: CUDA, else MPS, else CPU; 0: CPU; 1: an accelerator, which must exist."""
    num_threads: Threads = "auto"
    """Threads on the CPU; auto: OMP_NUM_THREADS where it is set, else one for each core."""
    datasets: Annotated[dict[RunName, str | None], Field(min_length=1)]
    """Set -> its folder, as tools/evaluate.py --data takes it; null leaves out a set that another file names."""
    models: Annotated[
        dict[RunName, Model | None], BeforeValidator(_or_empty, json_schema_input_type=dict[RunName, Model | None] | None)
    ] = Field(default_factory=dict)
    """Name in the table -> network, measured at its own scale; null leaves out one that another file names."""
    bicubic: list[Literal[2, 3, 4]] | None = None
    """Scales at which bicubic is measured; by default those of the models, or all where there are none."""
    save_images: bool = False
    """Keep every SR image, as images/<model>/<set>_x<scale>/<image>.png in the benchmark's folder."""
    crop: PositiveInt = 96
    """Side in HR pixels of the crops in the pictures of the first model's best and worst against bicubic."""
    perceptual: list[Literal["lpips", "dists"]] = Field(default_factory=list)
    """Learned metrics beside PSNR and SSIM; they need pip install 'sr_nas[perceptual]'."""
    path: OutputPath = OutputPath()

    @model_validator(mode="after")
    def _possible(self) -> BenchmarkOptions:
        if BICUBIC in (name.lower() for name in self.models):
            raise ValueError("models: 'bicubic' is the name of the baseline; give this model another")
        sets = [*self.datasets, *(f"{name}-{key}" for name in self.datasets for key in self.degradations)]
        for names, kind in ((self.models, "models"), (sets, "datasets")):
            if len({name.lower() for name in names}) < len(names):
                raise ValueError(f"{kind}: two names differ only in capital letters, which some file systems do not tell apart")
        if not any(self.datasets.values()):
            raise ValueError("datasets: there is no set to measure on")
        if self.bicubic == [] and not any(self.models.values()):
            raise ValueError("models: there is nothing to measure, neither a model nor bicubic")
        return self


@dataclass(frozen=True, eq=False)
class Entry:
    """A row of the table: a network, measured at its own scale, and how it runs; both are ``None`` for bicubic.

    ``identity`` is a digest of everything that decides its output.
    """

    name: str
    scale: int
    identity: str
    network: SRNetwork | None = field(default=None, repr=False)
    options: Model | None = None

    def upscale(self, device: torch.device) -> Upscale:
        """Return it as a function, with the network on the device from now on."""
        if self.network is None or self.options is None:
            return bicubic
        how = self.options
        return upscaler(self.network, tile=how.tile, device=device, precision=how.precision, ensemble=how.ensemble)


@dataclass(frozen=True)
class BenchmarkSet:
    """A set at one scale; ``lr`` says where its LR images come from, ``contents`` is a digest of all its files."""

    name: str
    scale: int
    pairs: Pairs
    lr: str
    contents: str


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of JSON-ready parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content; a UserError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


class _Measured(TypedDict):
    seconds: float
    psnr: float
    ssim: float
    memory_bytes: int | None


_CACHE = TypeAdapter(dict[str, str | list[_Measured]])


class Benchmark:
    """Models, sets and the measurements of the former on the latter.

    ``entries`` are bicubic by scale, then the models in their order; ``sets`` are there at every scale of these. ``cache`` has
    the measurements of the file, key -> the records of a set's first images; ``measured`` those of whole sets, by entry and set.

    Raises:
        UserError: a model cannot be loaded, the folder is that of another run, or its measurements are damaged.
    """

    def __init__(self, options: BenchmarkOptions) -> None:
        self.options, self.device = options, pick_device(options.num_gpu)
        use_threads(options.num_threads)
        for model in filter(None, options.models.values()):
            check_precision(self.device, model.precision)
        self.entries = load_entries(options)
        self.sets, self._missing = open_sets(options, sorted({entry.scale for entry in self.entries}))
        self._perceptual = perceptual_metrics(options.perceptual, self.device)
        self.metrics = ["psnr", "ssim", *options.perceptual]
        self.measured: dict[Entry, dict[str, list[Record]]] = {entry: {} for entry in self.entries}
        self._warm: set[Entry] = set()
        self.folder = Path(options.path.experiments_root) / options.name
        self._file = self.folder / MEASUREMENTS
        self.folder.mkdir(parents=True, exist_ok=True)
        if not holds_nothing(self.folder) and not self._file.is_file():
            raise UserError(f"{self.folder} holds no benchmark but something else. Give the benchmark another name.")
        self.cache: dict[str, Any] = parse_json(self._file.read_bytes(), self._file) if self._file.is_file() else {}
        try:
            _CACHE.validate_python(self.cache, strict=True)
        except ValueError as error:
            raise UserError(f"{self._file} is damaged. Delete it to measure everything again.") from error
        sweep(self.folder, ABANDONED)
        write_json(self._file, self.cache)
        write_text(self.folder / OPTIONS, dump_options(options))

    def about(self) -> dict[str, Any]:
        """Return the device with its threads, and the versions: measurements are valid for these alone."""
        threads = torch.get_num_threads()
        device = f"{self.device.type}, {platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}"
        if self.device.type == "cuda":
            device = torch.cuda.get_device_name(self.device)
        return {"device": device, "versions": {"sr_nas": __version__, "torch": str(torch.__version__)}}

    def measure_all(self, console: Console, stop: Callable[[], bool]) -> list[Problem]:
        """Fill :attr:`measured` until a signal asks to stop; return what could not be measured."""
        problems = list(self._missing)
        rounds = [(entry, one) for entry in self.entries for one in self.sets if one.scale == entry.scale]
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=sum(len(one.pairs) for _, one in rounds))
            for entry, one in rounds:
                where = f"{entry.name} on {one.name} x{one.scale}"
                progress.update(task, description=where)
                records = []
                try:
                    for record in self._records(entry, one):
                        records.append(record)
                        progress.advance(task)
                        if stop():
                            return problems
                    self.measured[entry][one.name] = records
                except UserError as error:
                    problems.append({"where": where, "text": str(error)})
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    torch.cuda.empty_cache()
                    tiles = f" Tiles take less: set models.{entry.name}.tile, to 256 for example." if entry.network else ""
                    text = f"the memory does not suffice to read, upscale and score an image.{tiles}"
                    problems.append({"where": where, "text": text})
        return problems

    def _records(self, entry: Entry, one: BenchmarkSet) -> Iterator[Record]:
        """Yield the records of a set's images, measuring those that have none; only one network is on the device."""
        for other in self.entries:
            if other is not entry and other.network is not None:
                other.network.cpu()
        crop = self.options.crop if [entry] == self._models(entry.scale)[:1] else None
        key = digest(entry.identity, one.scale, one.contents, self.about(), sorted(self._perceptual), crop)
        records: list[Record] = self.cache.setdefault(key, [])
        for index, name in enumerate(one.pairs.names):
            file = None
            if self.options.save_images:
                file = self.folder / "images" / entry.name / f"{one.name}_x{one.scale}" / f"{name}.png"
            saved = file is None or file.is_file()
            if index >= len(records) or not saved or (file and file_digest(file) != records[index].get("file")):
                records[index : index + 1] = [self.measure(entry, one, index, crop, file)]
                write_json(self._file, self.cache)
            yield records[index]

    def measure(self, entry: Entry, one: BenchmarkSet, index: int, crop: int | None, file: Path | None) -> Record:
        """Upscale and score an image; write it to ``file``, and find its :func:`extreme_gains` of side ``crop``, where given."""
        hr, lr, upscale = one.pairs.hr(index), one.pairs.lr(index), entry.upscale(self.device)
        if entry not in self._warm:
            upscale(np.full((32, 32, 3), 128, np.uint8), one.scale)  # untimed: libraries prepare themselves at their first call
            self._warm.add(entry)
        reset_peak_memory(self.device)
        start = time.perf_counter()
        sr = upscale(lr, one.scale)
        record: Record = {"seconds": time.perf_counter() - start}
        # On a GPU only PyTorch's own memory is known, not that of another runtime.
        other = self.device.type == "cuda" and isinstance(entry.network, RuntimeNetwork) and not entry.network.in_torch
        record["memory_bytes"] = None if other else peak_memory(self.device)
        record |= score(sr, hr, one.scale, one.pairs.names[index])
        record |= {metric: compare(sr, hr) for metric, compare in self._perceptual.items()}
        if crop is not None:
            record["crops"] = extreme_gains(sr, bicubic(lr, one.scale), hr, one.scale, crop)
        if file is not None:
            write_image(file, sr)
            record["file"] = file_digest(file)
        return record

    def _models(self, scale: int) -> list[Entry]:
        """Return the models of a scale. The best and worst crops are those of the first."""
        return [entry for entry in self.entries if entry.network is not None and entry.scale == scale]

    def draw_crops(self) -> None:
        """Write ``crops/<set>_x<scale>_best.png`` and ``_worst.png`` of every set, unless they are there and up to date."""
        for one in self.sets:
            models = [entry for entry in self._models(one.scale) if one.name in self.measured[entry]]
            if models[:1] != self._models(one.scale)[:1] or not models:
                continue
            crops = [record["crops"] for record in self.measured[models[0]][one.name]]
            for which, choose in (("best", max), ("worst", min)):
                index = choose(range(len(crops)), key=lambda number: crops[number][which][0])
                box, name = crops[index][which][1], one.pairs.names[index]
                file = self.folder / "crops" / f"{one.name}_x{one.scale}_{which}.png"
                content = digest(name, box, one.contents, [(entry.name, entry.identity) for entry in models])
                if self.cache.get(file.name) != content or not file.is_file():
                    lr = one.pairs.lr(index)
                    images = [(entry.name, entry.upscale(self.device)(lr, one.scale)) for entry in models]
                    crop_picture(file, name, one.pairs.hr(index), [(BICUBIC, bicubic(lr, one.scale)), *images], box)
                    self.cache[file.name] = content
                    write_json(self._file, self.cache)

    def results(self, problems: list[Problem]) -> dict[str, Any]:
        """Return everything that the table shows, JSON-ready; what cannot be counted joins ``problems``."""
        memory = "cuda" if self.device.type == "cuda" else "reset" if reset_peak_memory(self.device) else "process"
        protocol = PROTOCOL | {name: PERCEPTUAL_PROTOCOL[name] for name in self.options.perceptual}
        if named := dict.fromkeys(f"{one.name} x{one.scale}: {one.lr}" for one in self.sets if one.lr != FROM_HR):
            protocol["lr"] = f"{'; '.join(named)}; elsewhere {PROTOCOL['lr']}"
        protocol |= self.options.protocol()
        return {
            "name": self.options.name,
            "folder": str(self.folder),
            **self.about(),
            "protocol": protocol | {"seconds": SECONDS, "memory": MEMORY[memory]},
            "sets": list(dict.fromkeys(one.name for one in self.sets)),
            "metrics": self.metrics,
            "models": [self._row(entry, problems) for entry in self.entries],
            "problems": problems,
        }

    def _row(self, entry: Entry, problems: list[Problem]) -> dict[str, Any]:
        row: dict[str, Any] = {"name": entry.name, "scale": entry.scale}
        if entry.network is not None and entry.options is not None:
            passes = 8 if entry.options.ensemble else 1
            try:
                counts = complexity(countable(entry.network))
                row |= {"params": counts["params"]} | {name: counts[name] * passes for name in MACS}
            except UserError as error:
                problems.append({"where": entry.name, "text": str(error)})
            row |= {name: getattr(entry.options, name) for name in ("path", "arch", "ensemble", "tile", "precision")}
            row["genotype"] = entry.network.genotype.to_json()
        row["sets"] = {}
        for one in self.sets:
            if one.scale == entry.scale and one.name in self.measured[entry]:
                records = self.measured[entry][one.name]
                images = [{name: record[name] for name in (*self.metrics, "seconds", "memory_bytes")} for record in records]
                memory = max((record["memory_bytes"] or 0 for record in records), default=0) or None
                numbers = means(records, (*self.metrics, "seconds")) | {"memory_bytes": memory, "lr": one.lr}
                row["sets"][one.name] = numbers | {"images": dict(zip(one.pairs.names, images, strict=True))}
        return row


def load_entries(options: BenchmarkOptions) -> list[Entry]:
    """Load everything that is to be measured; a UserError names all models that cannot be loaded."""
    networks, problems = [], []
    for name, model in options.models.items():
        if model is not None:
            try:
                network, path = load_model(model.path, model.arch, model.genotype), model_file(model.path)
                parts = [file_digest(trained_file(path) if path.is_dir() else path), network.arch, network.settings()]
            except UserError as error:
                problems.append(f"models.{name}: {error}")
                continue
            runtime = network.runtime if isinstance(network, RuntimeNetwork) else None
            identity = digest(*parts, model.ensemble, model.tile, model.precision, runtime)
            networks.append(Entry(name, network.scale, identity, network, model))
    if problems:
        raise UserError("\n".join(problems))
    scales: Sequence[int] | None = options.bicubic
    if scales is None:
        scales = [scale for scale in (2, 3, 4) if not networks or any(entry.scale == scale for entry in networks)]
    return [*(Entry(BICUBIC, scale, digest(BICUBIC)) for scale in dict.fromkeys(scales)), *networks]


def open_sets(options: BenchmarkOptions, scales: Iterable[int]) -> tuple[list[BenchmarkSet], list[Problem]]:
    """Return the sets that are there, and what is wrong with the others."""
    sets: list[BenchmarkSet] = []
    problems: list[Problem] = []
    places = {name: Path(place).expanduser() for name, place in options.datasets.items() if place is not None}
    for (name, place), scale in product(places.items(), scales):
        where = f"{name} x{scale}" if place.is_dir() else name
        try:
            _, pairs, lr = benchmark_set(place, scale)
            contents = digest(pairs.names, [file_digest(Path(file)) for files in pairs.files for file in dict.fromkeys(files)])
            changed = [[step.model_dump(mode="json") for step in steps] for steps in options.degradations.values()]
            digests = [contents, *(digest(contents, steps) for steps in changed)]
            for (title, images, origin), one in zip(options.of(name, pairs, lr), digests, strict=True):
                sets.append(BenchmarkSet(title, scale, images, origin, one))
        except UserError as error:
            text = str(error).rstrip(".")
            if not place.exists():
                text += f". To have it, put its HR images into {place}/HR (see datasets/README.md)"
            advice = f"Name another folder with --force_yml datasets:{name}=FOLDER, or leave it out with datasets:{name}=null."
            problem = {"where": where, "text": f"{text}. {advice}"}
            problems += [problem] if problem not in problems else []
    return sets, problems


def crop_picture(path: Path, name: str, hr: Image, results: Sequence[tuple[str, Image]], box: Box) -> None:
    """Write the crop of each (title, image of the size of HR) and of HR side by side as PNG, with the PSNR of the crops."""
    left, top, right, bottom = box
    columns = []
    for title, image in results:
        decibels = psnr(image[top:bottom, left:right], hr[top:bottom, left:right], 0)
        columns.append((f"{title}, equal" if math.isinf(decibels) else f"{title}, {decibels:.2f} dB", image))
    save(comparison_figure([*columns, (f"{name}, HR", hr)], box), path)
