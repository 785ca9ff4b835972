"""The command ``evaluate``: PSNR and SSIM of networks on benchmark sets, beside bicubic; or a table of an option file."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from sr_nas.analysis.model_table import FROM_HR, MACS, Benchmark, BenchmarkOptions, Degradations
from sr_nas.data.sources import benchmark_set
from sr_nas.errors import UserError, listing
from sr_nas.export.model import load_model
from sr_nas.inference.images import upscaler
from sr_nas.metrics import PROTOCOL, bicubic, evaluate_set
from sr_nas.options.load import check_options, load_options
from sr_nas.report.page import REPORT, Section, again, write_page
from sr_nas.report.tables import Table, finite, remarks, write_csv, write_numbers
from sr_nas.runs.device import pick_device, use_threads
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import write_text

OF_A_TABLE = ("force_yml", "save_images")
OF_A_MODEL = ("model", "arch", "genotype", "data", "lr", "jpeg", "scale", "tile", "num_gpu", "num_threads")
OF_ONE_MODEL = ("arch", "genotype", "lr", "scale")
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS"}


def main(args: Namespace) -> int:
    """Run ``evaluate``; return the exit code: 1 where something of a table could not be measured."""
    if args.opt is None and (args.model is None or args.data is None):
        raise UserError("name a model and its data with --model and --data, or an option file with -opt")
    # Arguments of the other form would be ignored.
    for name in OF_A_TABLE if args.opt is None else OF_A_MODEL:
        if getattr(args, name) not in (None, False, []):
            advice = "belongs to -opt" if args.opt is None else "is said by the option file; override it with --force_yml"
            raise UserError(f"--{name} {advice}")
    if args.opt is not None:
        return _several_models(args)
    return _one_model(args, args.model[0]) if len(args.model) == 1 else _side_by_side(args)


def _several_models(args: Namespace) -> int:
    """Measure what has not been measured yet; write ``table.json``, ``table.md``, ``table.csv``, the crops and a page of all."""
    overrides = [*args.force_yml, *(["save_images=true"] if args.save_images else ())]
    benchmark = Benchmark(load_options(BenchmarkOptions, args.opt, overrides))
    with GracefulShutdown() as stop:
        problems = benchmark.measure_all(Console(stderr=True), stop)
        if not stop():
            benchmark.draw_crops()
        results = benchmark.results(problems) | {"complete": not stop() and not problems}
        write_numbers(benchmark.folder / "table.json", results)
        write_text(benchmark.folder / "table.md", markdown(results))
        write_csv(benchmark.folder / "table.csv", csv_rows(results))
        write_report(benchmark.folder, results)
    _print(args.json, results, list(tables(results)), explanations(results))
    text = f"{results['folder']} holds {REPORT}, table.md, table.csv and table.json"
    print(f"stopped; the same command goes on. {text} of what is measured." if stop() else text, file=sys.stderr)
    return stop.exit_code or int(bool(problems))


def _side_by_side(args: Namespace) -> int:
    """Print one row for each of several models, measured as those of an option file are; nothing is written."""
    if first := next((name for name in OF_ONE_MODEL if getattr(args, name) is not None), None):
        raise UserError(f"--{first} is for one --model; list several, each with its own, in an option file (-opt).")
    models = {_name(Path(model)): {"path": model} | ({"tile": args.tile} if args.tile else {}) for model in args.model}
    datasets = {_name(path.parent if path.name == "HR" else path): str(path) for path in args.data}
    for what, named, given in (("model", models, args.model), ("data", datasets, args.data)):
        if len(named) < len(given):
            raise UserError(f"--{what}: two have the same name; give them names of your own in an option file (-opt).")
    device = {"num_gpu": args.num_gpu if args.num_gpu in (None, "auto") else int(args.num_gpu), "num_threads": args.num_threads}
    raw = {"name": "evaluate", "models": models, "datasets": datasets, "degradations": _jpeg(args)} | {
        key: one for key, one in device.items() if one is not None
    }
    with TemporaryDirectory() as folder:
        benchmark = Benchmark(check_options(BenchmarkOptions, raw | {"path": {"experiments_root": folder}}, "--model, --data"))
        results = benchmark.results(benchmark.measure_all(Console(stderr=True), lambda: False))
    del results["folder"]
    rows = [
        {"model": row["name"], "scale": f"x{row['scale']}"}
        | {"parameters": f"{row['params']:,}" if "params" in row else "-"}
        | {"MACs, HR": f"{row['macs_hr_1280x720'] / 1e9:.2f} G" if "params" in row else "-"}
        | {name: _scores(row["sets"].get(name), results["metrics"]) for name in results["sets"]}
        | {f"ms, {name}": f"{1000 * one['seconds']:.0f}" for name, one in row["sets"].items()}
        for row in results["models"]
    ]
    legend = {what: how for what, how in explanations(results).items() if what not in ("MACs, LR", "memory")}
    _print(args.json, results, [Table(rows, "PSNR / SSIM, and milliseconds per image")], legend)
    return int(bool(results["problems"]))


def _jpeg(args: Namespace) -> dict[str, Any]:
    """Return the degradations of --jpeg."""
    return {f"jpeg{quality}": [{"type": "jpeg", "quality": quality}] for quality in args.jpeg or ()}


def _name(path: Path) -> str:
    """Return the name of a model or set in a table: that of its file or folder, less what names of option files lack."""
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._+-]+", "", path.resolve().name) or "model"


def _one_model(args: Namespace, model: str) -> int:
    """Print the scores of a network and of bicubic, by set and image."""
    if args.lr is not None and len(args.data) > 1:
        raise UserError("--lr names the LR images of one set, but --data names several.")
    further = check_options(Degradations, {"degradations": _jpeg(args)}, "--jpeg")
    network = load_model(model, args.arch, args.genotype)
    scale, device = network.scale, pick_device("auto" if args.num_gpu in (None, "auto") else int(args.num_gpu))
    if args.scale not in (None, scale):
        raise UserError(f"--scale {args.scale}: {model} upscales by {scale}.")
    opened = [one for path in args.data for one in further.of(*benchmark_set(path, scale, args.lr))]
    names = [name for name, *_ in opened]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--data names two sets that are both called '{repeated[0]}'.")
    # As it is, and not folded for speed: a pixel that rounds the other way would make this another figure than a training's.
    network = network.eval().to(device)
    sets, grids, protocol = {}, [], PROTOCOL | {"device": f"{device} (threads: {use_threads(args.num_threads)})"}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, pairs, origin in opened:
            bar = progress.add_task(name, total=2 * len(pairs))
            scores, baseline = (
                evaluate_set(upscale, pairs, scale, lambda *_, bar=bar: progress.advance(bar))
                for upscale in (upscaler(network, tile=args.tile, device=device), bicubic)
            )
            scores |= {"bicubic": {metric: baseline[metric] for metric in ("psnr", "ssim")}, "lr": origin}
            for image, row in scores["images"].items():
                row["bicubic"] = baseline["images"][image]
            rows = []
            for image, row in {**scores["images"], "mean": scores}.items():
                texts = {"bicubic dB": f"{row['bicubic']['psnr']:.3f}", "bicubic SSIM": f"{row['bicubic']['ssim']:.4f}"}
                texts |= {f"{Path(model).name} dB": f"{row['psnr']:.3f}", "SSIM": f"{row['ssim']:.4f}"}
                rows.append({"image": image} | texts)
            grids.append(Table(rows, f"{name} x{scale}, LR images: {scores['lr']}"))
            sets[name] = scores
    if any(scores["lr"] != FROM_HR for scores in sets.values()):
        protocol["lr"] = f"the images named with the set; where it is '{FROM_HR}': {PROTOCOL['lr']}"
    protocol |= further.protocol()
    _print(args.json, {"scale": scale, "protocol": protocol, "sets": sets}, grids, protocol)
    return 0


def _print(as_json: bool, results: dict[str, Any], grids: Sequence[Table], protocol: Mapping[str, str]) -> None:
    if as_json:
        json.dump(finite(results), sys.stdout, indent=2, allow_nan=False)
        print()
        return
    console = Console(markup=False, highlight=False)
    for grid in grids:
        grid.print(console)
    console = remarks(console)
    console.print("Protocol", style="bold")
    lines = RichTable.grid(padding=(0, 2))
    for what, how in protocol.items():
        lines.add_row(f"  {what}", how)
    console.print(lines)
    for problem in results.get("problems", ()):
        console.print(f"not measured: {problem['where']}: {problem['text']}", style="bold red", soft_wrap=True)


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a benchmark's results: the scores at every scale, the networks' size, then time and memory."""
    sets, models, metrics = results["sets"], results["models"], results["metrics"]
    if not sets:
        return
    for scale in sorted({row["scale"] for row in models}):
        rows = [row for row in models if row["scale"] == scale]
        cells = [{"model": row["name"]} | {name: _scores(row["sets"].get(name), metrics) for name in sets} for row in rows]
        yield Table(cells, f"x{scale}, {' / '.join(NAMES[name] for name in metrics)}")
    sizes = [
        {"model": row["name"], "scale": f"x{row['scale']}", "parameters": f"{row['params']:,}"}
        | {f"MACs, {name[5:7].upper()}": f"{row[name] / 1e9:.2f} G" for name in MACS}
        for row in models
        if "params" in row
    ]
    if sizes:
        yield Table(sizes, "size")
    running = []
    for row in models:
        seconds = {name: f"{row['sets'][name]['seconds']:.3f}" if name in row["sets"] else "-" for name in sets}
        memory = max((numbers["memory_bytes"] or 0 for numbers in row["sets"].values()), default=0)
        texts = {"model": row["name"], "scale": f"x{row['scale']}", **seconds}
        running.append(texts | {"memory": f"{memory / 1e6:.0f} MB" if memory else "-"})
    yield Table(running, "seconds per image, and memory")


def _scores(numbers: dict[str, Any] | None, metrics: Sequence[str]) -> str:
    """Return e.g. ``32.21 / .8948``."""
    if numbers is None:
        return "-"
    texts = (f"{numbers[name]:.2f}" if name == "psnr" else f"{numbers[name]:.4f}" for name in metrics)
    return " / ".join(text.removeprefix("0") if text.startswith("0.") else text for text in texts)


def explanations(results: dict[str, Any]) -> dict[str, str]:
    """Return what the figures of the tables mean."""
    return {
        "MACs, LR": "multiply-adds (fvcore) for an LR input of 1280x720; with ensemble, of its eight passes",
        "MACs, HR": "the same for an HR output of 1280x720",
        "device": results["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        **results["protocol"],
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the tables, their explanations and the problems in Markdown."""
    parts = [f"# {results['name']}", *(f"## {table.title}\n\n{table.markdown()}" for table in tables(results))]
    parts += ["## Protocol", "\n".join(f"- {what}: {how}" for what, how in explanations(results).items())]
    if results["problems"]:
        parts += ["## Not measured", "\n".join(f"- {problem['where']}: {problem['text']}" for problem in results["problems"])]
    return "\n\n".join(parts) + "\n"


def write_report(folder: Path, results: dict[str, Any]) -> None:
    """Write the page of a benchmark: who is best, tables, crops, protocol, problems."""
    models = results["models"]
    best = []
    for name, scale in product(results["sets"], sorted({row["scale"] for row in models})):
        if some := [row for row in models if row["scale"] == scale and name in row["sets"]]:
            top = max(some, key=lambda row: row["sets"][name]["psnr"])
            best.append(f"{name} x{scale} {top['name']}, {top['sets'][name]['psnr']:.2f} dB")
    crops = sorted((folder / "crops").glob("*.png"))
    legend = [{"": what, "how the figures are made": how} for what, how in explanations(results).items()]
    sections = [
        *(Section(table.title, rows=table.rows) for table in tables(results)),
        *(Section(f"Crop: {file.stem.replace('_', ', ')}", pictures=[file]) for file in crops),
        Section("Not measured", [f"{problem['where']}: {problem['text']}" for problem in results["problems"]]),
        Section("Protocol", rows=legend),
        again([sys.argv], [{}])[0],
    ]
    asked = f"Asked for: {listing(dict.fromkeys(row['name'] for row in models))} on {listing(results['sets'])}."
    write_page(
        folder / REPORT, results["name"], [asked, f"Best of each set: {'; '.join(best) or 'nothing is measured'}."], sections
    )


def csv_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every model and set, with unrounded numbers."""
    scores, columns = [*results["metrics"], "seconds", "memory_bytes"], ("params", *MACS, "ensemble", "tile", "precision")
    return [
        {"model": row["name"], "scale": row["scale"], "set": name, "images": len(numbers["images"])}
        | {key: numbers[key] for key in scores}
        | {key: row.get(key) for key in columns}
        for row in results["models"]
        for name, numbers in row["sets"].items()
    ]
