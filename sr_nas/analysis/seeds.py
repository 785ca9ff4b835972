"""One search from many seeds: each a run and a process of its own, and what they come to together."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sr_nas.analysis.history import top2_gap
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.report.progress import genotype_text
from sr_nas.runs.device import cores
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import write_json
from sr_nas.runs.run_dir import read_history, resumable_runs

SUMMARY = "seeds.json"
ENDING = "_seeds"
"""Of the folder with what the seeds come to and what they said."""
_CHILD = "import sys; from sr_nas.cli import main; sys.exit(main(sys.argv[1:]))"
_POLL = 0.5


@dataclass(frozen=True)
class Seeds:
    """What is run.

    Attributes:
        opt: the option file.
        overrides: of it, as after ``--force_yml``.
        name: of the runs, before ``_seed<k>``.
        root: folder of all runs.
        seeds: the seeds.
        jobs: how many run at a time; ``None`` for one per GPU, or per core where there is none.
        epochs: of each.
    """

    opt: str
    overrides: Sequence[str]
    name: str
    root: Path
    seeds: Sequence[int]
    jobs: int | None
    epochs: int

    def run_name(self, seed: int) -> str:
        """Name of a seed's run."""
        return f"{self.name}_seed{seed}"


@dataclass
class _Running:
    seed: int
    process: subprocess.Popen[str]
    slot: int
    log: Path


@dataclass
class _Places:
    """Where processes run: each has its share of the cores, and a GPU of its own where there are any."""

    gpus: int = field(default_factory=torch.cuda.device_count)
    cores: int = field(default_factory=cores)

    def count(self, jobs: int | None, wanted: int) -> int:
        return min(jobs or self.gpus or self.cores, wanted)

    def environment(self, slot: int, count: int) -> dict[str, str]:
        found = dict(os.environ)
        found.setdefault("OMP_NUM_THREADS", str(max(1, self.cores // count)))
        if self.gpus:
            visible = found.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(self.gpus)))).split(",")
            found["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
        return found


def run_seeds(plan: Seeds, say: Callable[[str], None]) -> int:
    """Search from every seed, going on with those that were begun, and write what they come to.

    A signal stops the searches, each of which saves itself; the same command goes on.

    Args:
        plan: what is run.
        say: told of what begins and ends.

    Returns:
        0, or 128 plus the signal that stopped it.

    Raises:
        UserError: searches failed; the others were run to their end all the same.
    """
    places = _Places()
    count = places.count(plan.jobs, len(plan.seeds))
    folder = plan.root / f"{plan.name}{ENDING}"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = list(plan.seeds)
    running: list[_Running] = []
    failed: list[_Running] = []
    with GracefulShutdown() as stop:
        while running or (waiting and not stop()):
            while waiting and len(running) < count and not stop():
                slot = min(set(range(count)) - {one.slot for one in running})
                running.append(_start(plan, waiting.pop(0), slot, folder, places.environment(slot, count)))
                say(f"seed {running[-1].seed}: {plan.root / plan.run_name(running[-1].seed)}, its output in {running[-1].log}")
            if stop():
                for one in running:
                    one.process.send_signal(signal.SIGTERM)
                for one in running:
                    one.process.wait()
                say(
                    f"stopped; the same command goes on with seeds {', '.join(str(one.seed) for one in running)} and those after."
                )
                return stop.exit_code
            time.sleep(_POLL)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode:
                    failed.append(one)
                say(f"seed {one.seed} {'failed: ' + _last(one.log) if one.process.returncode else 'is done'}")
    if failed:
        raise UserError(f"seeds {', '.join(str(one.seed) for one in failed)} failed; see {failed[0].log}.")
    return 0


def finished(plan: Seeds) -> dict[int, Path]:
    """Return seed -> run folder, for those seeds whose search has come to its end."""
    found = {}
    for seed in plan.seeds:
        for folder in resumable_runs(plan.root, plan.run_name(seed))[:1]:
            if read_history(folder)[-1]["epoch"] >= plan.epochs:
                found[seed] = folder
    return found


def runs_of(folder: Path) -> list[Path]:
    """Return the runs that a folder ``<name>_seeds`` tells of, by seed; for any other folder, the folder.

    Raises:
        UserError: a seed that was begun has no run.
    """
    logs = [log for log in folder.glob("seed*.txt") if log.stem.removeprefix("seed").isdecimal()]
    if not folder.name.endswith(ENDING) or not logs:
        return [folder]
    found = []
    for seed in sorted(int(log.stem.removeprefix("seed")) for log in logs):
        name = f"{folder.name.removesuffix(ENDING)}_seed{seed}"
        runs = resumable_runs(folder.parent, name)
        if not runs:
            raise UserError(f"{folder} tells of a seed {seed}, and there is no run {folder.parent / name}.")
        found.append(runs[0])
    return found


def summarise(runs: Mapping[int, Path], folder: Path | None = None) -> dict[str, Any]:
    """Return what runs of several seeds come to, and write it to ``seeds.json`` in a folder.

    Returns:
        ``seeds``: seed -> genotype and figures; ``figures``: name -> ``mean``, ``std`` (of the sample, divided by N - 1; 0 for
        one seed), ``min`` and ``max``: true accuracies in percent where they are known, parameters, multiply-adds, ``skip
        share`` of the operations kept, and the smallest ``top-2 gap`` of beta over the choices of operations.
    """
    own = {seed: _figures(read_history(path)[-1]) for seed, path in runs.items()}
    names = list(dict.fromkeys(name for _, figures in own.values() for name in figures))
    figures = {}
    for name in names:
        values = [figures[name] for _, figures in own.values() if name in figures]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = {"mean": statistics.fmean(values), "std": spread, "min": min(values), "max": max(values)}
    result = {"seeds": {seed: {"genotype": text} | found for seed, (text, found) in own.items()}, "figures": figures}
    if folder is not None:
        write_json(folder / SUMMARY, result)
    return result


def _figures(record: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    known = record.get("true_accuracy", {})
    found = {f"{data} {part}": value for data, own in known.items() for part, value in own.items()}
    found |= {name: record[name] for name in record if name == "params" or name.startswith("macs_")}
    gaps = [top2_gap(beta) for label, beta in record["beta"].items() if label in record["genotype"]["genotype"]]
    found |= {"smallest top-2 gap": min(gaps)} if gaps else {}
    kept = [name for _, names in Genotype.from_json(record["genotype"]).picks for name in names]
    found["skip share"] = sum(name.startswith("skip_connect") for name in kept) / len(kept)
    return genotype_text(record), found


def _start(plan: Seeds, seed: int, slot: int, folder: Path, environment: Mapping[str, str]) -> _Running:
    log = folder / f"seed{seed}.txt"
    words = ["search", "-opt", plan.opt, "--auto_resume", "--force_yml", *plan.overrides]
    words += [f"name={plan.run_name(seed)}", f"manual_seed={seed}", f"path:experiments_root={plan.root}"]
    with log.open("a", encoding="utf-8") as stream:
        # A terminal's Ctrl-C comes to this process alone, which hands it on once.
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words],
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,
            text=True,
        )
    return _Running(seed, process, slot, log)


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
