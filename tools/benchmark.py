"""Measure the speed of sr_nas on this machine: supernets, search steps, threads, inference and the data loader.

``python tools/benchmark.py supernet|search-step|threads|inference|data|all [--json]``. Variants run in turns, so that whatever
slows the machine for a while slows them all; what counts are the ratios between them. ``--clock cpu`` measures the time
of all cores that the process uses instead of the time on the clock, which a busy machine distorts. Peak memory is measured in a
process of its own for every variant.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from preparation.generate import write_lmdb
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils import benchmark
from torch.utils.data import Dataset

from sr_nas.bridge.basicsr import import_basicsr
from sr_nas.cli import main as sr_nas
from sr_nas.cli import with_errors_printed
from sr_nas.complexity.costs import count_macs
from sr_nas.data.loader import PatchDataset, ResumableLoader
from sr_nas.data.sources import folder, lmdb_pairs, sample
from sr_nas.errors import UserError
from sr_nas.export.model import build_by_name, load_model
from sr_nas.export.network_file import save_network
from sr_nas.images.files import read_rgb, write_image
from sr_nas.images.folders import list_images
from sr_nas.images.resize import downscale, modcrop
from sr_nas.inference.images import upscale_image
from sr_nas.inference.optimize import for_inference
from sr_nas.options.load import check_options, load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import NETWORKS, SPACES
from sr_nas.runs.device import cores
from sr_nas.runs.files import keep_freed_memory, wait_briefly
from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.budget import Multipliers
from sr_nas.task import build_searcher, network_costs

CASES = {"sac-imdn": ("IMDN", 4), "sa-imdn": ("IMDN", 1), "dlsr": ("DLSR", 1)}
"""Case -> architecture and K, the share of channels that goes through the candidates being 1/K."""

Step = Callable[[], object]


def in_turns(steps: Mapping[str, Step], rounds: int, clock: str, threads: int) -> dict[str, dict[str, Any]]:
    """Time several callables in turns, every other round backwards, after one untimed run of each.

    Returns:
        For each its median ``seconds`` and their ``iqr``, and ``ratio``, the median over the rounds of its time to that of the
        first callable in the same round.
    """
    which: Any = {"timer": time.process_time} if clock == "cpu" else {}
    timers = {
        name: benchmark.Timer("step()", globals={"step": step}, num_threads=threads, **which) for name, step in steps.items()
    }
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
        for name in list(steps)[:: -1 if number % 2 else 1]:
            seconds[name].append(timers[name].timeit(1).raw_times[0])
    base = next(iter(seconds.values()))
    return {
        name: {
            "seconds": median(times),
            "iqr": float(np.subtract(*np.percentile(times, (75, 25)))),
            "ratio": median(mine / other for mine, other in zip(times, base, strict=True)),
        }
        for name, times in seconds.items()
    }


def peak_apart(threads: int, make_step: Callable[..., Step], *arguments: Any) -> int | None:
    """Bytes that two runs of ``make_step(*arguments)`` add to a fresh process (to the GPU, on CUDA) at most."""
    if _on_gpu(arguments):  # PyTorch counts there itself
        torch.cuda.reset_peak_memory_stats()
        return _added_memory(threads, make_step, arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_added_memory, threads, make_step, arguments).result()


def _on_gpu(arguments: tuple[Any, ...]) -> bool:
    return any(isinstance(argument, torch.device) and argument.type == "cuda" for argument in arguments)


def _added_memory(threads: int, make_step: Callable[..., Step], arguments: tuple[Any, ...]) -> int | None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    step = make_step(*arguments)
    before = torch.cuda.memory_allocated() if (on_gpu := _on_gpu(arguments)) else psutil.Process().memory_info().rss
    for _ in range(2):  # the first allocates gradients and the moments of optimizers
        step()
    after = torch.cuda.max_memory_allocated() if on_gpu else _peak_resident()
    return None if after is None else after - before


def _peak_resident() -> int | None:
    """Peak resident memory of this process in bytes. Not ``ru_maxrss``, which a new process inherits from its parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def supernet_pass(case: str, variant: str, batch: int, size: int, settings: dict[str, int], device: torch.device) -> Step:
    """A forward and a backward pass with an L1 loss, of a supernet (``plain`` or ``fused``) or of its plain ``network``."""
    torch.manual_seed(0)
    arch, partial = CASES[case]
    low = torch.rand(batch, 3, size, size, device=device)
    high = torch.rand(batch, 3, 2 * size, 2 * size, device=device)
    if variant == "network":
        network = NETWORKS.get(arch)(scale=2, **settings).to(device)
        return lambda: nn.functional.l1_loss(network(low), high).backward()
    space = SPACES.get(arch)(scale=2, partial_channel=partial, execution=variant, **settings).to(device)
    alpha = Alpha(space.choices()).to(device)
    return lambda: nn.functional.l1_loss(space(low, alpha.relax(softmax)), high).backward()


def search_step(case: str, variant: str, batch: int, size: int, settings: dict[str, int], device: torch.device) -> Step:
    """A step of a search on the sample photos, alpha and weights, with SA loss and FLOPs term.

    Args:
        case: one of :data:`CASES`.
        variant: execution and order, such as ``"fused, first"``; ``"budget, first"`` is what a budget adds to that, alone.
        batch: LR patches per batch.
        size: their height and width in pixels.
        settings: of the supernet.
        device: where it runs.
    """
    arch, partial = CASES[case]
    execution, order = variant.split(", ")
    alone = execution == "budget"
    raw = {
        "name": case,
        "scale": 2,
        "datasets": {"train": {"type": "sample", "gt_size": 2 * size, "batch_size_per_gpu": batch}},
        "network_g": {"type": arch, "partial_channel": partial, "execution": "fused" if alone else execution, **settings},
        "search": {
            "regularizer": {"type": "sa", "schedule": {"type": "linear", "slope": 0.2}},
            "flops_weight": 0.1,
            "epochs": 1,
            "steps_per_epoch": 10**9,
            "order": order,
        },
    }
    searcher = build_searcher(check_options(SearchOptions, raw, case), device)
    if alone:
        searcher.run(between_steps=lambda: True)  # which leaves a gradient of alpha
        cost = network_costs(searcher.space, {"macs_hr": math.inf})["macs_hr"]
        multipliers = Multipliers({"macs_hr": replace(cost, limit=(cost.least + cost.most) / 2)})
        return lambda: multipliers.add_gradient(searcher.alpha, searcher.relaxation)
    return lambda: searcher.run(between_steps=lambda: True)


def measure_passes(parsed: argparse.Namespace, make_step: Callable[..., Step], variants: Sequence[str]) -> dict[str, Any]:
    """Time and memory of every variant in every case; ratios are to the first variant."""
    device, settings = torch.device(parsed.device), {} if parsed.nf is None else {"nf": parsed.nf}
    results: dict[str, Any] = {}
    for case in parsed.case or CASES:
        print(f"\r{case}: ", end="", file=sys.stderr)
        sizes = (parsed.batch, parsed.size, settings, device)
        steps = {variant: make_step(case, variant, *sizes) for variant in variants}
        results[case] = in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)
        for variant, row in results[case].items():
            row["peak_bytes"] = peak_apart(parsed.threads, make_step, case, variant, *sizes)
    return results


def supernet(parsed: argparse.Namespace) -> dict[str, Any]:
    """A pass of the plain network, and of its supernet with candidates one at a time (``plain``) and computed together."""
    return measure_passes(parsed, supernet_pass, ("network", "plain", "fused"))


def search(parsed: argparse.Namespace) -> dict[str, Any]:
    """Whole steps of a search: candidates one at a time and fused, first and second order; and what a budget adds to them."""
    variants = [f"{how}, {order}" for order in parsed.order for how in ("plain", "fused")]
    return measure_passes(parsed, search_step, [*variants, "budget, first"])


def threads(parsed: argparse.Namespace) -> dict[str, Any]:
    """A step of options/sac_imdn.yml by threads: alone, and beside two processes of two threads each that never rest."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without ending the others
    with ExitStack() as stack:

        def process() -> tuple[ProcessPoolExecutor, int]:
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            stack.callback(os.kill, number := pool.submit(os.getpid).result(), signal.SIGKILL)
            return pool, number

        others, pools = dict(process() for _ in "ab"), {"2, PyTorch's waiting": process()[0]}
        wait_briefly()  # in the processes that are started from now on
        pools = {str(count): process()[0] for count in sorted({1, 2, cores()})} | pools

        def step(name: str, what: signal.Signals) -> None:
            for number in others.values():
                os.kill(number, what)
            pools[name].submit(_main_step, int(name.split(",")[0])).result()

        for other in others:
            other.submit(_never_rest)
        places = {"alone": signal.SIGSTOP, "beside them": signal.SIGCONT}.items()
        steps = {f"threads {name}: {place}": partial(step, name, what) for place, what in places for name in pools}
        return {"a step of options/sac_imdn.yml": in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)}


def _never_rest() -> None:
    _own_session(2)
    x, weight = torch.rand(4, 32, 64, 64), torch.rand(32, 32, 3, 3)
    while multiprocessing.parent_process().is_alive():  # type: ignore[union-attr]
        nn.functional.conv2d(x, weight)


@cache
def _own_session(count: int) -> Step:
    os.setsid()  # as if started from a terminal of its own: Linux shares processors among sessions
    torch.set_num_threads(count)
    keep_freed_memory()
    searcher = build_searcher(load_options(SearchOptions, "options/sac_imdn.yml", ["search:epochs=9999"]), torch.device("cpu"))
    return lambda: searcher.run(between_steps=lambda: True)


def _main_step(count: int) -> None:
    _own_session(count)()


def inferring(file: str, engine: Any, size: tuple[int, int], device: torch.device) -> Step:
    """One image through a network in a file: ``plain`` PyTorch, or an engine of ``sr-nas inference``."""
    network = load_model(file).eval().to(device)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    if engine != "plain":
        executed, _ = for_inference(network, engine, device)
        return lambda: upscale_image(executed, pixels, device=device)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device) / 255

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return network(image)

    return plain


def inference(parsed: argparse.Namespace) -> dict[str, Any]:
    """A network on one LR image: plain PyTorch, PyTorch as ``inference`` prepares it, and ONNX Runtime."""
    device = torch.device(parsed.device)
    height, width = parsed.size
    settings = {} if parsed.genotype is None else {"genotype": parsed.genotype}
    network = load_model(parsed.model) if parsed.model else build_by_name(parsed.arch, settings, scale=2)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/network.safetensors"
        save_network(Path(file), network)
        if parsed.megapixels:
            return {"photo": photo(file, parsed.megapixels)}
        engines = ("plain", "torch", "onnxruntime") if device.type == "cpu" else ("plain", "torch")
        steps = {engine: inferring(file, engine, parsed.size, device) for engine in engines}
        rows = in_turns(steps, parsed.rounds, parsed.clock, parsed.threads)
        for engine, row in rows.items():
            row["peak_bytes"] = peak_apart(parsed.threads, inferring, file, engine, parsed.size, device)
    macs = count_macs(network, (height, width))[0][""]
    for row in rows.values():
        row["gflops"] = 2e-9 * macs / row["seconds"]
    return {f"{network.arch}, LR {width}x{height}, {macs / 1e9:.2f} G multiply-adds": rows}


def photo(model: str, megapixels: float) -> dict[str, dict[str, float | None]]:
    """Time and peak memory of ``sr-nas inference`` on a photo of 3:2 with so many million pixels, in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return {"sr-nas inference": pool.submit(_upscale_photo, model, megapixels).result()}


def _upscale_photo(model: str, megapixels: float) -> dict[str, float | None]:
    height, width = (max(1, round((megapixels * 1e6 * ratio) ** 0.5)) for ratio in (2 / 3, 3 / 2))
    pixels = sample(held_out=True, scale=1).hr(0)
    pixels = np.pad(pixels, ((0, max(0, height - len(pixels))), (0, max(0, width - pixels.shape[1])), (0, 0)), "symmetric")
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "photo.png", pixels[:height, :width])
        del pixels
        start = time.perf_counter()
        if sr_nas(["inference", "-i", f"{folder}/photo.png", "-o", f"{folder}/out", "--model", model]):
            raise UserError("inference failed; its message stands above.")
        return {"seconds": time.perf_counter() - start, "peak_bytes": _peak_resident()}


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
    try:
        datasets["basicsr, folder"] = BasicSRPairs(*folders, parsed)
    except UserError as error:
        print(f"basicsr is left out: {error}", file=sys.stderr)
    for name, dataset in datasets.items():
        yield name, ResumableLoader(dataset, range(len(pairs["folder"].names)), parsed.batch, seed=0).next


MODEST = {"supernet": "3", "search-step": "3", "threads": "3", "inference": "5", "data": "3"}
"""What :func:`run_all` measures, and in how many rounds."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds, in turns (default: 7)")
    common.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="threads on the CPU")
    common.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="time on the clock, or of all cores")
    common.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    passes = argparse.ArgumentParser(add_help=False)
    passes.add_argument("--case", action="append", choices=CASES, help="what (default: all three)")
    passes.add_argument("--batch", type=int, default=4, metavar="N", help="patches per batch (default: 4)")
    passes.add_argument("--size", type=int, default=24, metavar="N", help="side of an LR patch (default: 24)")
    passes.add_argument("--nf", type=int, metavar="N", help="feature channels (default: the networks' own)")
    commands = result.add_subparsers(metavar="WHAT", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], dict[str, Any]], *parents: argparse.ArgumentParser) -> Any:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__, parents=[common, *parents])
        command.set_defaults(run=run)
        return command

    add("supernet", supernet, passes)
    add("search-step", search, passes).add_argument("--order", nargs="+", choices=("first", "second"), default=["first"])
    add("threads", threads)
    one = add("inference", inference)
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
    digits = {"seconds": "{:.4f}", "iqr": "{:.4f}", "ratio": "{:.2f}", "gflops": "{:.0f}", "patches_per_second": "{:.0f}"}
    console = Console(width=110)
    for title, rows in results.items():
        columns = list(next(iter(rows.values())))
        table = Table("variant", *(column.replace("peak_bytes", "peak MiB") for column in columns), title=title)
        for name, row in rows.items():
            cells = (row[c] and f"{row[c] / 2**20:,.0f}" if c == "peak_bytes" else digits[c].format(row[c]) for c in columns)
            table.add_row(name, *(cell or "-" for cell in cells))
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
