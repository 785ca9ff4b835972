"""Measure the speed of sr_nas here: supernets, search steps, trainings, threads, inference, the data loader and sweeps.

``python tools/benchmark.py supernet|search-step|training|threads|inference|data|sweep|all [--json]``. Variants run in turns, so
that whatever slows the machine for a while slows them all; what counts are the ratios between them. ``--clock cpu`` measures the
time of all cores that the process uses instead of the time on the clock, which a busy machine distorts. Peak memory is measured
in a process of its own for every variant.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from measuring.inference import inference
from measuring.searches import CASES, GPU_VARIANTS, Calls, search_step, supernet_pass
from measuring.sweeps import sweep
from measuring.timing import Step, busy_process, in_turns, peak_apart
from preparation.generate import write_lmdb
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from sr_nas.bridge.basicsr import import_basicsr
from sr_nas.cli import with_errors_printed
from sr_nas.data.degradation import DegradedPatches
from sr_nas.data.loader import PatchDataset, ResumableLoader
from sr_nas.data.sources import folder, lmdb_pairs, sample
from sr_nas.errors import UserError
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.folders import list_images
from sr_nas.images.resize import downscale, modcrop
from sr_nas.ops.reparam import KINDS
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.runs.device import cores
from sr_nas.runs.files import keep_freed_memory, wait_briefly
from sr_nas.task import build_searcher, build_trainer, build_training, find_task, training_options

TRAININGS = {
    "imdn": ("options/train_imdn.yml", "[conv_3x3,conv_3x3,conv_3x3,conv_3x3]"),
    "separable": ("options/train_imdn.yml", "[dil_dsconv_3x3_bn,dil_dsconv_3x3,dsconv_5x5_bn,dil_dsconv_5x5_bn]"),
    "dlsr": (
        "options/train_dlsr.yml",
        "{op1: conv_1x1, op2: dil_conv_3x3, op3: conv_1x1, inputs3: [cell1, cell2], inputs4: [cell1, cell2], "
        "inputs5: [cell4, cell2], inputs6: [cell2, cell1]}",
    ),
}
"""Case -> option file and genotype."""


DEGRADED = ("options/train_jpeg.yml", "options/train_real.yml")
"""Option files whose degradation of patches is measured."""


def training_step(case: str, variant: str, batch: int, size: int, settings: dict[str, int], device: torch.device) -> Step:
    """An iteration of a training on the sample photos, of ours or of a plain loop with the same batches, or a part of ours.

    Args:
        case: one of :data:`TRAININGS`.
        variant: ``"plain loop"``, ``"plain loop, channels_last"``, ``"trainer"`` or one of
            :data:`sr_nas.ops.reparam.KINDS`, an iteration, the last in these branches; ``"moving average"`` or ``"loading"``, its
            part of one; ``"validation"``, which the option file asks for every 200 iterations.
        batch: LR patches per batch.
        size: their height and width in pixels.
        settings: of the network, beside those in the option file.
        device: where it runs.
    """
    file, genotype = TRAININGS[case]
    sizes = [f"datasets:train:gt_size={2 * size}", f"datasets:train:batch_size_per_gpu={batch}"]
    words = [f"network_g:{name}={value}" for name, value in {"genotype": genotype, **settings}.items()]
    words += [f"train:reparam={variant}"] if variant in KINDS else []
    options = load_options(training_options, file, [*sizes, *words])
    images, network, _ = build_training(options)
    trainer = build_trainer(options, images, network, device, "fp32")
    if not variant.startswith("plain"):
        validator = find_task(options.task).validator(options, network, images, device)
        return {
            **dict.fromkeys(("trainer", *KINDS), trainer.step),
            "moving average": lambda: trainer.move_average(1e-3),
            "loading": trainer.stream.next,
            "validation": lambda: validator.measure(trainer.averaged),
        }[variant]
    layout = torch.channels_last if variant.endswith("channels_last") else torch.contiguous_format
    network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        low, high = (part.to(device, memory_format=layout) for part in trainer.stream.next())
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(network(low), high)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure_passes(
    parsed: argparse.Namespace, make_step: Callable[..., Step], variants: Sequence[str], cases: Iterable[str] = CASES
) -> dict[str, Any]:
    """Time and memory of every variant in every case; ratios are to the first variant."""
    device, settings = torch.device(parsed.device), {} if parsed.nf is None else {"nf": parsed.nf}
    results: dict[str, Any] = {}
    for case in parsed.case or cases:
        print(f"\r{case}: ", end="", file=sys.stderr)
        sizes = (parsed.batch, parsed.size, settings, device)
        steps = {variant: make_step(case, variant, *sizes) for variant in variants}
        results[case] = in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)
        for variant, row in results[case].items():
            # What a graph takes is reserved for it when it is recorded, and none of it counts as allocated.
            row["peak_bytes"] = None if "graph" in variant else peak_apart(parsed.threads, make_step, case, variant, *sizes)
    return results


def supernet(parsed: argparse.Namespace) -> dict[str, Any]:
    """A pass of the plain network, and of its supernet with candidates one at a time (``plain``) and computed together.

    ``fused, few calls`` is how ``fused`` runs on a GPU. Calls are those of one pass that finds no gradients from before.
    """
    variants = ("network", "plain", "fused", "fused, few calls")[: None if parsed.device == "cpu" else 3]
    results = measure_passes(parsed, supernet_pass, variants)
    settings = {} if parsed.nf is None else {"nf": parsed.nf}
    for case, rows in results.items():
        for variant, row in rows.items():
            first, step = (supernet_pass(case, variant, 1, 16, settings, torch.device(parsed.device)) for _ in range(2))
            first()  # which builds what all supernets of one kind share
            with Calls() as calls:
                step()
            row["computing_calls"], row["calls"] = calls.computing, calls.all
    return results


def search(parsed: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of a search: candidates one at a time and fused, first and second order; and what a budget adds to them."""
    ways = ("plain", "fused", *(GPU_VARIANTS if parsed.device == "cuda" else ()))
    variants = [f"{way}, {order}" for order in parsed.order for way in ways]
    return measure_passes(parsed, search_step, [*variants, "budget, first"])


def training(parsed: argparse.Namespace) -> dict[str, Any]:
    """Iterations of a training beside those of a plain PyTorch loop (fused Adam), and what of ours is not the network's."""
    iterations = ("plain loop", "plain loop, channels_last", "trainer", *KINDS)
    results = measure_passes(parsed, training_step, (*iterations, "moving average", "loading", "validation"), TRAININGS)
    for rows in results.values():
        for variant in iterations:
            rows[variant]["patches_per_second"] = parsed.batch / rows[variant]["seconds"]
    return results


def threads(parsed: argparse.Namespace) -> dict[str, Any]:
    """A step of options/sac_imdn.yml by threads: alone, and beside two processes of two threads each that never rest."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without ending the others
    with ExitStack() as stack:

        def process() -> ProcessPoolExecutor:
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            stack.callback(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)
            return pool

        others = [stack.enter_context(busy_process()) for _ in "ab"]
        pools = {"2, PyTorch's waiting": process()}
        wait_briefly()  # in the processes that are started from now on
        pools = {str(count): process() for count in sorted({1, 2, cores()})} | pools

        def step(name: str, what: signal.Signals) -> None:
            for number in others:
                os.kill(number, what)
            pools[name].submit(_main_step, int(name.split(",")[0])).result()

        places = {"alone": signal.SIGSTOP, "beside them": signal.SIGCONT}.items()
        steps = {f"threads {name}: {place}": partial(step, name, what) for place, what in places for name in pools}
        return {"a step of options/sac_imdn.yml": in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)}


@cache
def _own_session(count: int) -> Step:
    os.setsid()  # as if started from a terminal of its own: Linux shares processors among sessions
    torch.set_num_threads(count)
    keep_freed_memory()
    searcher = build_searcher(load_options(SearchOptions, "options/sac_imdn.yml", ["search:epochs=9999"]), torch.device("cpu"))
    return lambda: searcher.run(between_steps=lambda: True)


def _main_step(count: int) -> None:
    _own_session(count)()


class BasicSRPairs(Dataset[Any]):
    """basicsr's ``PairedImageDataset`` of folders, with flips and rotations, addressed as our data sets are."""

    def __init__(self, hr: Path, lr: Path, parsed: argparse.Namespace) -> None:
        import_basicsr()
        from basicsr.data.paired_image_dataset import PairedImageDataset

        options = {"phase": "train", "scale": parsed.scale, "gt_size": parsed.gt_size, "use_hflip": True, "use_rot": True}
        places = {"dataroot_gt": str(hr), "dataroot_lq": str(lr), "io_backend": {"type": "disk"}}
        self.pairs = PairedImageDataset({**options, **places})

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.pairs[address[0]]
        return item["lq"], item["gt"]


def data(parsed: argparse.Namespace) -> dict[str, Any]:
    """Batches of training patches from the same images as PNG files, as LMDB and from the pixel cache, beside basicsr's."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        files = list_images(parsed.data)[: parsed.images] if parsed.data else []
        for number in range(len(files) or parsed.images):
            pixels = read_rgb(files[number]) if files else sample(scale=1).hr(number % 5)
            hr = modcrop(pixels, parsed.scale)
            write_image(root / "hr" / f"{number:04}.png", hr)
            write_image(root / "lr" / f"{number:04}.png", downscale(hr, parsed.scale))
        steps = dict(_loaders(root, parsed))
        rows = in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)
    for row in rows.values():
        row["patches_per_second"] = parsed.batch / row["seconds"]
    return {f"x{parsed.scale}, batches of {parsed.batch}, HR patches of {parsed.gt_size}x{parsed.gt_size}": rows}


def _loaders(root: Path, parsed: argparse.Namespace) -> Iterator[tuple[str, Step]]:
    """Name and one batch of every way to read; decoded images are not kept in memory, as with a large data set."""
    for kind in ("hr", "lr"):
        _, writing = write_lmdb(root / kind, root / f"{kind}.lmdb", compression=1, workers=1)
        list(writing)
    folders, lmdbs = (root / "hr", root / "lr"), (root / "hr.lmdb", root / "lr.lmdb")
    pairs = {
        "folder": folder([str(folders[0])], [str(folders[1])], scale=parsed.scale),
        "folder, cache": folder([str(folders[0])], [str(folders[1])], cache=str(root / "cache"), scale=parsed.scale),
        "lmdb": lmdb_pairs(*map(str, lmdbs), scale=parsed.scale),
    }
    datasets: dict[str, Dataset[Any]] = {
        name: PatchDataset(pair, parsed.gt_size, memory_budget=0) for name, pair in pairs.items()
    }
    for file in DEGRADED:
        steps = load_options(training_options, file).datasets.train.degradation
        datasets[f"folder, cache, {Path(file).stem}"] = DegradedPatches(
            steps, pairs["folder, cache"], parsed.gt_size, memory_budget=0
        )
    try:
        datasets["basicsr, folder"] = BasicSRPairs(*folders, parsed)
    except UserError as error:
        print(f"basicsr is left out: {error}", file=sys.stderr)
    for name, dataset in datasets.items():
        yield name, ResumableLoader(dataset, range(len(pairs["folder"].names)), parsed.batch, seed=0).next


MODEST = {"supernet": "3", "search-step": "3", "training": "3", "threads": "3", "inference": "5", "data": "3"}
"""What :func:`run_all` measures, and in how many rounds."""


def _passes(cases: Iterable[str], batch: int, size: int) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(add_help=False)
    result.add_argument("--case", action="append", choices=cases, help="what (default: all three)")
    result.add_argument("--batch", type=int, default=batch, metavar="N", help=f"patches per batch (default: {batch})")
    result.add_argument("--size", type=int, default=size, metavar="N", help=f"side of an LR patch (default: {size})")
    result.add_argument("--nf", type=int, metavar="N", help="feature channels (default: those of the networks)")
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds, in turns (default: 7)")
    common.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="threads on the CPU")
    common.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="time on the clock, or of all cores")
    common.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    commands = result.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], dict[str, Any]], *parents: argparse.ArgumentParser) -> Any:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__, parents=[common, *parents])
        command.set_defaults(run=run)
        return command

    supernets = _passes(CASES, batch=4, size=24)
    add("supernet", supernet, supernets)
    add("search-step", search, supernets).add_argument("--order", nargs="+", choices=("first", "second"), default=["first"])
    add("training", training, _passes(TRAININGS, batch=8, size=32))
    add("threads", threads)
    one = add("inference", inference)
    one.add_argument("--six", action="store_true", help="six networks, instead of one")
    one.add_argument("--beside", action="store_true", help="also beside a process of two threads that never rests")
    one.add_argument("--arch", default="IMDN", help="architecture with fresh weights (default: IMDN)")
    one.add_argument("--genotype", metavar="A,B,...", help="its genotype (default: the published)")
    one.add_argument("--model", help="run folder or network file instead")
    one.add_argument("--size", type=_size, default=(180, 320), metavar="WxH", help="of the LR image (default: 320x180)")
    one.add_argument("--megapixels", type=float, metavar="M", help="upscale one photo of this size instead: time, peak memory")
    reading = add("data", data)
    reading.add_argument("--data", type=Path, metavar="DIR", help="folder of HR images (default: sample photos)")
    reading.add_argument("--images", type=int, default=8, metavar="N", help="how many images (default: 8)")
    reading.add_argument("--scale", type=int, default=2)
    reading.add_argument("--gt_size", type=int, default=192, help="side of the HR patch (default: 192)")
    reading.add_argument("--batch", type=int, default=16, metavar="N", help="patches per batch (default: 16)")
    add("sweep", sweep).add_argument("--trials", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    add("all", run_all)
    return result


def run_all(parsed: argparse.Namespace) -> dict[str, Any]:
    """All of them, with modest settings."""
    shared = ["--device", parsed.device, "--clock", parsed.clock, "--threads", str(parsed.threads)]
    results: dict[str, Any] = {}
    for name, rounds in MODEST.items():
        each = parser().parse_args([name, "--rounds", rounds, *shared])
        results |= {f"{name}: {title}": rows for title, rows in each.run(each).items()}
    return results


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 320x180")
    return int(height), int(width)


def print_tables(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print a table for each case: a row for each variant, a column for each figure."""
    digits = {
        "peak_bytes": "{:,.0f}",
        "prepare": "{:.1f}",
        "seconds": "{:.4f}",
        "iqr": "{:.4f}",
        "ratio": "{:.3g}",
        "gflops": "{:.0f}",
        "computing_calls": "{:,}",
        "calls": "{:,}",
        "patches_per_second": "{:.0f}",
    }
    console = Console(width=110)
    for title, rows in results.items():
        columns = list(next(iter(rows.values())))
        table = Table("variant", *(column.replace("peak_bytes", "peak MiB").replace("_", " ") for column in columns), title=title)
        for name, row in rows.items():
            values = {c: row.get(c) for c in columns}
            if values.get("peak_bytes"):
                values["peak_bytes"] = row["peak_bytes"] / 2**20
            table.add_row(name, *("-" if value is None else digits[c].format(value) for c, value in values.items()))
        console.print(table)
    console.print("Medians; ratio: to the first row, within rounds. Peak: what the variant adds to a process of its own.")


def main() -> int:
    """Run the command."""
    parsed = parser().parse_args()
    keep_freed_memory()
    return with_errors_printed("benchmark", lambda: _run(parsed))


def _run(parsed: argparse.Namespace) -> int:
    results = parsed.run(parsed)
    if parsed.json:
        about = {"torch": torch.__version__, "threads": parsed.threads, "cores": os.cpu_count(), "cpu": platform.processor()}
        print(json.dumps({"machine": about, **results}, indent=2))
    else:
        print_tables(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
