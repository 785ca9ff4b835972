"""Several models on several sets, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sr_nas.complexity.summary import complexity
from sr_nas.errors import UserError
from sr_nas.export.executed import countable
from sr_nas.jobs.benchmark_pictures import Found, draw_crops, judge
from sr_nas.jobs.benchmark_sets import BenchmarkSet, Problem, benchmark_sets
from sr_nas.jobs.contestants import Contestant, contestants
from sr_nas.jobs.evaluate import FROM_HR
from sr_nas.jobs.measuring import SECONDS, Bench
from sr_nas.metrics import perceptual
from sr_nas.metrics.benchmark import means
from sr_nas.metrics.psnr_ssim import PROTOCOL
from sr_nas.options.benchmark import BenchmarkOptions
from sr_nas.options.load import dump_options
from sr_nas.report.benchmark_tables import MACS, finite, write_csv, write_markdown
from sr_nas.runs.device import pick_device
from sr_nas.runs.files import sweep, write_json, write_text
from sr_nas.runs.folder import OPTIONS
from sr_nas.runs.interrupt import Interrupt
from sr_nas.runs.measurements import MEASUREMENTS, Measurements, digest, measurements
from sr_nas.runs.precision import check_precision

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
    metrics = perceptual.perceptual_metrics(options.perceptual, device)
    scored = ["psnr", "ssim", *options.perceptual]
    folder = open_folder(Path(options.path.experiments_root) / options.name)
    with measurements(folder) as kept, Interrupt() as stop:
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
    found = PROTOCOL | {name: perceptual.PROTOCOL[name] for name in options.perceptual}
    own = list(dict.fromkeys(f"{one.name} x{one.scale}: {one.lr}" for one in sets if one.lr != FROM_HR))
    return found | ({"lr": f"{'; '.join(own)}; elsewhere {PROTOCOL['lr']}"} if own else {})
