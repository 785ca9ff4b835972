"""One search from many seeds: a process for each, and a summary of all."""

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
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sr_nas.analysis.history import SEEDS, axis_label, quantities, read_run
from sr_nas.analysis.tables import Report
from sr_nas.errors import UserError
from sr_nas.options.load import load_options
from sr_nas.report.progress import genotype_text
from sr_nas.runs.device import cores
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import write_json
from sr_nas.runs.run_dir import read_history, resumable_runs
from sr_nas.task import search_options

SUMMARY = "seeds.json"
SUMMARISED = r"\w+_(valid|test)|params|macs_.+|gap_worst|share_.+"
"""Pattern of the quantities of a summary (see :func:`sr_nas.analysis.history.quantities`)."""
_CHILD = "import sys; from sr_nas.cli import main; sys.exit(main(sys.argv[1:]))"
_POLL = 0.5


@dataclass(frozen=True)
class Seeds:
    """The searches of an option file from several seeds: runs ``<root>/<name>_seed<k>`` of so many epochs.

    ``overrides`` are texts as after ``--force_yml``; ``jobs`` searches run at a time, by default one per GPU, or per core where
    there is none.
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
        """Folder of the summary and of what the searches print."""
        return self.root / f"{self.name}{SEEDS}"

    def log(self, seed: int) -> Path:
        """File with what a search prints."""
        return self.folder / f"seed{seed}.txt"


def main(args: Namespace) -> int:
    """Run the command ``search --seeds``; return its exit code."""
    options = load_options(search_options, args.opt, args.force_yml)
    root = Path(options.path.experiments_root)
    plan = Seeds(args.opt, args.force_yml, options.name, root, args.seeds, args.jobs, options.search.epochs)
    console = Console(markup=False, highlight=False)
    try:
        return run_seeds(plan, lambda text: console.print(text, soft_wrap=True))
    finally:
        if runs := finished(plan):
            summarise(plan, runs).print(console)


def run_seeds(plan: Seeds, say: Callable[[str], None]) -> int:
    """Search from every seed, resuming those that were begun.

    A signal stops the searches, each of which saves itself; the same command goes on.

    Args:
        plan: the searches.
        say: called with a line of text at the start and end of every search.

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
                running[seed] = _start(plan, seed, _environment(slot, gpus, max(1, cores() // count))), slot
                say(f"seed {seed}: {plan.root / plan.name}_seed{seed}, its output in {plan.log(seed)}")
            time.sleep(_POLL)
            for seed in [seed for seed, (process, _) in running.items() if process.poll() is not None]:
                process, slot = running.pop(seed)
                slots.append(slot)
                failed += [seed] if process.returncode else []
                say(f"seed {seed} {'failed: ' + _last_line(plan.log(seed)) if process.returncode else 'is done'}")
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


def _environment(slot: int, gpus: int, threads: int) -> dict[str, str]:
    """Return the environment of a search: its share of the cores, and a GPU of its own where there are any."""
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if gpus:
        visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    return environment


def _start(plan: Seeds, seed: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    words = ["search", "-opt", plan.opt, "--auto_resume", "--force_yml", *plan.overrides]
    words += [f"name={plan.name}_seed{seed}", f"manual_seed={seed}", f"path:experiments_root={plan.root}"]
    with plan.log(seed).open("ab") as log:
        # In a session of its own it does not get a terminal's Ctrl-C, which this process hands on once.
        return subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words], stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed nothing")


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
        seeds[seed] = {"genotype": genotype_text(run.history[-1])}
        seeds[seed] |= {name: float(values[0]) for name, values in scalars.items() if re.fullmatch(SUMMARISED, name)}
    figures, rows = {}, []
    for name in dict.fromkeys(name for numbers in seeds.values() for name in numbers if name != "genotype"):
        values = [numbers[name] for numbers in seeds.values() if name in numbers]
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}
        title, unit = axis_label(name)
        rows.append({"last epoch": title} | {key: f"{value / unit:.4g}" for key, value in figures[name].items()})
    write_json(plan.folder / SUMMARY, {"seeds": seeds, "figures": figures})
    genotypes = [f"seed {seed}: {numbers['genotype']}" for seed, numbers in seeds.items()]
    return Report(plan.folder, rows, [f"{len(runs)} of {len(plan.seeds)} seeds are done", *genotypes])
