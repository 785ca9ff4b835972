"""Many searches of one option file: from several seeds, a process for each; or over a grid of options (tables 5 and 8)."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from sr_nas.analysis.history import SEEDS, Method, Trials, axis_label, quantities, read_run
from sr_nas.analysis.tables import Report, check_output, open_output, write_csv, write_numbers
from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, nearest, shortened
from sr_nas.export.model import load_structure
from sr_nas.genotype import Genotype
from sr_nas.jobs.latency import latency_of
from sr_nas.jobs.search import run_search
from sr_nas.options.load import OptionLoader, load_options, parse_yaml
from sr_nas.options.sections import AnySearch
from sr_nas.report.plots import COLOURS, INK, Values, new_figure, save, style
from sr_nas.runs.device import cores
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import write_json
from sr_nas.runs.run_dir import read_history, resumable_runs
from sr_nas.task import search_options

SUMMARISED = r"\w+_(valid|test|psnr|regret)|params|macs_.+|gap_worst|share_.+"
"""Pattern of the quantities of a summary of seeds (see :func:`sr_nas.analysis.history.quantities`)."""
QUANTITIES = r"alpha_(mean|median|std)|gap_(worst|mean)|share_.+|params|macs_.+|\w+_(valid|test|psnr|regret)|loss_[a-z]+|seconds"
"""Pattern of all quantities of a search, whatever its space."""
DEFAULTS = ("cifar10_test", "share_skip_connect", "gap_worst"), ("macs_lr_1280x720", "gap_worst", "loss_task")
"""Quantities of a grid that are drawn: of NAS-Bench-201, and of other spaces."""
COSTS = r"params|macs_.+|latency_ms"
"""Pattern of the quantities that a table has besides those that are drawn."""
ROUNDS = 5
"""Times that each network of a sweep is run, for its latency."""
Axes = Mapping[str, Sequence[str]]
"""``section:...:key`` of an option -> its values, as the user wrote them in YAML."""
_CHILD = "import sys; from sr_nas.cli import main; sys.exit(main(sys.argv[1:]))"


def main(args: Namespace) -> int:
    """Run ``analyze sweep`` or ``search --seeds``; return the exit code."""
    return sweep(args) if "over" in args else search_seeds(args)


def search_seeds(args: Namespace) -> int:
    """Search from every seed and print the summary of those that are done; return the exit code."""
    options = load_options(search_options, args.opt, args.force_yml)
    root = Path(options.path.experiments_root)
    plan = Seeds(args.opt, args.force_yml, options.name, root, args.seeds, args.jobs, options.search.epochs)
    console = Console(markup=False, highlight=False)
    try:
        return run_seeds(plan, lambda text: console.print(text, soft_wrap=True))
    finally:
        if runs := finished(plan):
            summarise(plan, runs).print(console)


@dataclass(frozen=True)
class Seeds:
    """The searches of an option file from several seeds: runs ``<root>/<name>_seed<k>`` of so many epochs.

    ``overrides`` are texts as after ``--force_yml``; ``jobs`` searches run at a time, by default one per GPU, or per core where
    there is none. ``folder`` has the summary, and a log of what each search prints.
    """

    opt: str
    overrides: Sequence[str]
    name: str
    root: Path
    seeds: Sequence[int]
    jobs: int | None
    epochs: int

    @property
    def folder(self) -> Path:
        return self.root / f"{self.name}{SEEDS}"

    def log(self, seed: int) -> Path:
        return self.folder / f"seed{seed}.txt"


def run_seeds(plan: Seeds, say: Callable[[str], None]) -> int:
    """Search from every seed, resuming those that were begun; ``say`` is called at the start and end of every search.

    A signal stops the searches, each of which saves itself; the same command goes on.

    Returns:
        0, or 128 plus the signal that stopped it.

    Raises:
        UserError: searches failed; the others were run to their end all the same.
    """
    gpus = torch.cuda.device_count()
    count = min(plan.jobs or gpus or cores(), len(plan.seeds))
    plan.folder.mkdir(parents=True, exist_ok=True)
    waiting, slots, failed = list(plan.seeds), list(range(count)), []
    running: dict[int, tuple[subprocess.Popen[bytes], int]] = {}
    with GracefulShutdown() as stop:
        while (running or waiting) and not stop():
            while waiting and slots:
                seed, slot = waiting.pop(0), slots.pop(0)
                running[seed] = _start(plan, seed, slot, gpus, max(1, cores() // count)), slot
                say(f"seed {seed}: {plan.root / plan.name}_seed{seed}, its output in {plan.log(seed)}")
            time.sleep(0.5)
            for seed in [seed for seed, (process, _) in running.items() if process.poll() is not None]:
                process, slot = running.pop(seed)
                slots.append(slot)
                if process.returncode:
                    failed.append(seed)
                    printed = plan.log(seed).read_text(encoding="utf-8", errors="replace").strip() or "it printed nothing"
                    say(f"seed {seed} failed: {printed.splitlines()[-1]}")
                else:
                    say(f"seed {seed} is done")
        for process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for process, _ in running.values():
            process.wait()
    if stop():
        say(f"stopped; the same command goes on with seeds {', '.join(map(str, [*running, *waiting]))}.")
        return stop.exit_code
    if failed:
        raise UserError(f"seeds {', '.join(map(str, failed))} failed; see {plan.log(failed[0])}.")
    return 0


def _start(plan: Seeds, seed: int, slot: int, gpus: int, threads: int) -> subprocess.Popen[bytes]:
    """Start a search with its share of the cores, and a GPU of its own where there are any."""
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONIOENCODING": "utf-8"}
    if gpus:
        visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    words = ["search", "-opt", plan.opt, "--auto_resume", "--force_yml", *plan.overrides]
    words += [f"name={plan.name}_seed{seed}", f"manual_seed={seed}", f"path:experiments_root={plan.root}"]
    command = [sys.executable, "-c", _CHILD, *words]
    with plan.log(seed).open("ab") as log:
        # In a session of its own it does not get a terminal's Ctrl-C, which this process hands on once.
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finished(plan: Seeds) -> dict[int, Path]:
    """Return seed -> run folder of the searches that have come to their end."""
    newest = {seed: resumable_runs(plan.root, f"{plan.name}_seed{seed}")[:1] for seed in plan.seeds}
    return {
        seed: folder for seed, folders in newest.items() for folder in folders if read_history(folder)[-1]["epoch"] >= plan.epochs
    }


def summarise(plan: Seeds, runs: Mapping[int, Path]) -> Report:
    """Return the summary of finished runs, by seed, and write it to ``seeds.json``.

    The file has ``seeds``: seed -> genotype and quantities of its last epoch; ``figures``: quantity -> ``mean``, ``std`` (of the
    sample, divided by N - 1; 0 for one seed), ``min`` and ``max``. Which quantities: :data:`SUMMARISED`.
    """
    seeds: dict[int, dict[str, Any]] = {}
    for seed, path in runs.items():
        run = read_run(path)
        scalars = quantities(run.history[-1:], run.choices)
        seeds[seed] = {"genotype": str(Genotype.from_json(run.history[-1]["genotype"]))}
        seeds[seed] |= {name: float(values[0]) for name, values in scalars.items() if re.fullmatch(SUMMARISED, name)}
    figures, rows = {}, []
    for name in dict.fromkeys(name for numbers in seeds.values() for name in numbers if name != "genotype"):
        values = [numbers[name] for numbers in seeds.values() if name in numbers]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}
        title, unit = axis_label(name)
        rows.append({"last epoch": title} | {key: f"{value / unit:.4g}" for key, value in figures[name].items()})
    write_json(plan.folder / "seeds.json", {"seeds": seeds, "figures": figures})
    genotypes = [f"seed {seed}: {numbers['genotype']}" for seed, numbers in seeds.items()]
    return Report(plan.folder, rows, [f"{len(runs)} of {len(plan.seeds)} seeds are done", *genotypes])


class Cell(NamedTuple):
    """A point of the grid: the value of every axis, as text, and checked options, one per seed."""

    values: tuple[str, ...]
    searches: list[AnySearch]


def read_axes(texts: Sequence[str]) -> Axes:
    """Read texts ``key=value,value,...``; the values are YAML.

    Raises:
        UserError: a text of another form, a key or a value that is given twice, or the seed or the name, which are not swept.
    """
    axes: dict[str, Sequence[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        flow = f"[{values}]"
        parse_yaml(flow, f"--over {shortened(text)}")
        node = yaml.compose(flow, Loader=OptionLoader)
        if not equals or not key or not isinstance(node, yaml.SequenceNode) or not node.value:
            raise UserError(f"--over '{text}': the form is key=value,value,..., for example search:regularizer:nu=0,0.25,1.")
        if key in ("name", "manual_seed"):
            raise UserError(f"--over {key}: every search of a grid has a name of its own; seeds are given by --seeds.")
        if key in axes:
            raise UserError(f"--over: an option is given twice: {key}.")
        # The marks cut out what the user wrote: 1e6 stays 1e6 in names and tables.
        axes[key] = [flow[item.start_mark.index : item.end_mark.index].strip() for item in node.value]
        if len(set(axes[key])) < len(axes[key]):
            raise UserError(f"--over '{text}': a value is given twice.")
    return axes


def short_keys(axes: Axes) -> list[str]:
    """Return the last word of every key, or as many of its last words as make all of them different."""
    words = [key.split(":") for key in axes]
    names = (["_".join(word[-count:]) for word in words] for count in range(1, max(map(len, words)) + 1))
    return next(keys for keys in names if len(set(keys)) == len(keys))


def cells_of(path: str, overrides: Sequence[str], axes: Axes, seeds: Sequence[int] | None) -> list[Cell]:
    """Check the options of every search of a grid, before the first is begun.

    A search is called ``<name>-nu0.25-mu1e6``, after :func:`short_keys`, and with seeds ``..._seed0``; without, a cell is one
    search with the option file's own seed. ``overrides`` are ``section:key=value`` texts for all of them.

    Raises:
        UserError: an option that is wrong in one of them.
    """
    stem, keys = load_options(search_options, path, overrides).name, short_keys(axes)
    cells, names = [], set()
    for values in product(*axes.values()):
        short = (f"-{key}{re.sub(r'[^A-Za-z0-9._+-]+', '_', value)[:40]}" for key, value in zip(keys, values, strict=True))
        name = stem + "".join(short)
        names.add(name)
        point = [*overrides, *(f"{key}={value}" for key, value in zip(axes, values, strict=True))]
        runs = [[f"name={name}"]]
        if seeds is not None:
            runs = [[f"name={name}_seed{seed}", f"manual_seed={seed}"] for seed in seeds]
        cells.append(Cell(values, [load_options(search_options, path, [*point, *run]) for run in runs]))
    if len(names) < len(cells):
        raise UserError("two searches of the grid would have one name: values must differ in 40 letters, digits or . + -")
    return cells


def sweep(args: Namespace) -> int:
    """Search every cell of a grid, resuming those that were begun; write ``sweep.json``, ``sweep.csv`` and ``sweep.png``.

    ``args.show`` are the quantities to draw, by default those of :data:`DEFAULTS` that are known. The table has the costs and
    the genotypes too; networks of super-resolution are timed on this device. Returns the exit code: that of a search that was
    stopped by a signal, else 0.
    """
    check_output(args.output)
    console, axes = Console(markup=False), read_axes(args.over)
    cells = cells_of(args.opt, args.force_yml, axes, args.seeds)
    for name in args.show:  # before days of searching, as far as the name tells
        if not re.fullmatch(QUANTITIES, name):
            known = [
                "alpha_mean",
                "gap_worst",
                "gap_mean",
                "share_skip_connect",
                "params",
                "loss_task",
                "cifar10_test",
                "seconds",
            ]
            raise UserError(f"--show: there is no '{name}'{nearest(name, known)} There are for example: {', '.join(known)}.")
    methods: list[Method] = []
    for cell in cells:
        runs = []
        for options in cell.searches:
            folder, code = run_search(options, console, auto_resume=True)
            if code:
                return code
            runs.append(read_run(folder))
        methods.append(Method(", ".join(cell.values), runs))
        drawn = _drawn(args.show, methods)  # after the first cell already: what this space does not have is refused
    results = add_latency(methods, [method.quantities() for method in methods])
    content, trials, rows = [], [], []
    for cell, method, result in zip(cells, methods, results, strict=True):
        point = dict(zip(axes, cell.values, strict=True))
        last = {name: values.values[:, -1].tolist() for name, values in result.items()}
        numbers = {
            name: {"mean": float(result[name].mean[-1]), "std": float(result[name].std[-1]), "trials": values}
            for name, values in last.items()
        }
        genotypes = [str(Genotype.from_json(run.history[-1]["genotype"])) for run in method.runs]
        about = {"seeds": method.seeds, "runs": [str(run.folder) for run in method.runs], "genotypes": genotypes}
        content.append({**point, **about, "quantities": numbers})
        for place, seed in enumerate(method.seeds):
            numbers_of = {name: values[place] for name, values in last.items()}
            trials.append({**point, "seed": seed, "genotype": genotypes[place], **numbers_of})
        row = dict(zip(short_keys(axes), cell.values, strict=True)) | {"seeds": str(len(method.seeds))}
        shown = dict.fromkeys([*drawn, *(name for name in result if re.fullmatch(COSTS, name))])
        row |= {axis_label(name)[0]: result[name].last(axis_label(name)[1]) for name in shown}
        rows.append(row | {"genotype" + "s" * (len(genotypes) > 1): "\n".join(genotypes)})
    written = open_output(args.output, "sweep")
    write_numbers(written / "sweep.json", content)
    write_csv(written / "sweep.csv", trials)
    save(sweep_figure({name: [result[name] for result in results] for name in drawn}, axes), written / "sweep.png")
    Report(written, rows).print(console)
    return 0


def add_latency(methods: Sequence[Method], results: list[dict[str, Trials]]) -> list[dict[str, Trials]]:
    """Return quantities by method with ``latency_ms`` of the final networks, where they are of super-resolution."""
    if methods[0].runs[0].options.task != SRNetwork.task:
        return results
    networks = {run.folder: cast(SRNetwork, load_structure(run.folder)) for method in methods for run in method.runs}
    times = dict(zip(networks, latency_of(list(networks.values()), ROUNDS)[0], strict=True))
    for method, result in zip(methods, results, strict=True):
        result["latency_ms"] = Trials(method.epochs[-1:], np.array([[times[run.folder]] for run in method.runs]))
    return results


def _drawn(names: Sequence[str], methods: Sequence[Method]) -> list[str]:
    first, *others = [method.quantities() for method in methods]
    known = [name for name in first if all(name in other for other in others)]
    for name in names:
        if name not in known:
            raise UserError(f"--show: there is no '{name}'{nearest(name, known)} There are: {', '.join(known)}.")
    defaults = DEFAULTS[0] if DEFAULTS[0][0] in known else DEFAULTS[1]
    return list(names) or [name for name in defaults if name in known]


def sweep_figure(results: Mapping[str, Sequence[Trials]], axes: Axes) -> Figure:
    """Draw lines over one option, or heat maps over two; of more, the last is across and the others together down.

    Args:
        results: quantity -> trials of every cell, the last axis fastest; their last epoch is drawn.
        axes: of the grid.
    """
    *down, across = axes.values()
    *keys, last = short_keys(axes)
    labels = [", ".join(values) for values in product(*down)]
    ticks: dict[str, Any] = {"rotation": 35, "ha": "right"} if max(map(len, across)) > 8 else {}
    if down:
        width = max(1.05 * len(across) + 0.07 * max(map(len, labels)) + 1.9, 3.6)
        height = 0.6 * len(labels) + 1.5 + 0.05 * max(map(len, across))
    else:
        width, height = max(3.2, 0.6 * len(across) + 1.2), 3.3
    figure = new_figure(width * len(results) + 0.3, height)
    for panel, (name, cells) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        title, unit = axis_label(name)
        mean, std = (
            np.reshape([values[-1] / unit for values in column], (len(labels), len(across)))
            for column in ([trials.mean for trials in cells], [trials.std for trials in cells])
        )
        style(panel, title, last, ", ".join(keys), boxed=bool(down))
        panel.set_xticks(range(len(across)), across, **ticks)
        if down:
            _heat_map(panel, mean, std)
            panel.set_yticks(range(len(labels)), labels)
        else:
            panel.errorbar(range(len(across)), mean[0], np.nan_to_num(std[0]), color=COLOURS[0], marker="o", capsize=4)
            panel.set_xlim(-0.4, len(across) - 0.6)
    return figure


def _heat_map(panel: Any, mean: Values, std: Values) -> None:
    """Draw values as colours, ``[rows, columns]``, with the numbers in the cells; NaN where there is none."""
    image = panel.imshow(mean, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(mean):
        text = "-" if np.isnan(value) else f"{value:.4g}"
        text += "" if np.isnan(std[row, column]) else f"\n± {std[row, column]:.2g}"
        # The bright end of the colours is too bright for white letters.
        colour = INK if float(np.nan_to_num(image.norm(value))) > 0.6 else "white"
        panel.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    panel.tick_params(length=0)
