"""What the driver of a sweep adds to each of its trials, beside what the start of a trial's process takes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from sr_nas.analysis.sweep import carry_out, make_plan
from sr_nas.cli import parser_of
from sr_nas.jobs.trials import SweepView, Trial, open_sweep
from sr_nas.options.load import dump_options
from sr_nas.runs.distributed import GracefulShutdown
from sr_nas.runs.files import write_json, write_text
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, PROVENANCE, append_history

GENOTYPE = "network_g:genotype=[conv_3x3,conv_3x3,conv_3x3,conv_3x3]"


class Toys:
    """Workers whose trials do nothing but leave a run folder."""

    count = 8

    def submit(self, trial: Trial, until: int) -> Future[int]:
        folder = trial.folder / trial.name
        folder.mkdir()
        write_text(folder / OPTIONS, dump_options(trial.options))
        write_json(folder / PROVENANCE, [{"processes": 1, "threads": 1}])
        (folder / CHECKPOINT).touch()
        append_history(folder, {"iteration": until, "loss": 1.0, "val": {"set": {"psnr": 30.0, "ssim": 0.9}}})
        future: Future[int] = Future()
        future.set_result(0)
        return future

    def stop(self) -> None:
        pass


def sweep(parsed: argparse.Namespace) -> dict[str, Any]:
    """Processor time of the driver for each of many toy trials, their options included, and of the start of one process."""
    children = psutil.Process()
    before = children.cpu_times()
    subprocess.run([sys.executable, "-c", "import sr_nas.jobs.train"], check=True)
    after = children.cpu_times()
    start = after.children_user + after.children_system - before.children_user - before.children_system
    with tempfile.TemporaryDirectory() as root:
        words = ["-opt", "options/train_imdn.yml", "--seeds", f"0-{parsed.trials - 1}"]
        args = parser_of("sweep").parse_args([*words, "--force_yml", GENOTYPE, f"path:experiments_root={root}"])
        memory, began = psutil.Process().memory_info().rss, time.process_time()
        plan = make_plan(args)
        console = Console(quiet=True)
        with open_sweep(plan.folder), GracefulShutdown() as stop, SweepView(console, len(plan.trials)) as view:
            course = carry_out(plan, [plan.trials[0].length], None, None, Toys(), view, stop)
        seconds = (time.process_time() - began) / parsed.trials
        memory = psutil.Process().memory_info().rss - memory
        assert not course.failed and len(list(Path(plan.folder).glob("*_seed*"))) == parsed.trials
    return {
        f"{parsed.trials} trials": {
            "start of a trial's process": {"seconds": start, "ratio": 1.0, "peak_bytes": None},
            "driver, for each trial": {"seconds": seconds, "ratio": seconds / start, "peak_bytes": memory},
        }
    }
