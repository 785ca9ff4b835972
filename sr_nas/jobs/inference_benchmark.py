"""What inference costs, side by side: plain PyTorch, the network as it is prepared, and ONNX Runtime."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_nas.complexity.macs import count_macs
from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError
from sr_nas.export.network_file import load_network, save_network
from sr_nas.export.onnx_file import load_onnx, save_onnx
from sr_nas.inference.prepared import prepared
from sr_nas.jobs.side_by_side import added_memory, apart, in_turns, summary
from sr_nas.runs.allocator import give_freed_memory_back, keep_freed_memory

PLAIN, KEPT, OURS, ONNX = "plain", "plain, memory kept", "ours", "onnxruntime"
VARIANTS = (PLAIN, KEPT, OURS, ONNX)
"""PyTorch by itself; the same with memory kept, as this project's commands have it; the prepared network; the exported one."""
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        size: (height, width) of the LR image.
        rounds: how often each variant runs, in turns.
        threads: threads of PyTorch and ONNX Runtime on the CPU.
    """

    size: tuple[int, int] = (180, 320)
    rounds: int = 7
    threads: int = 2


def measure(
    network: SRNetwork, plan: Plan, device: torch.device, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure the passes of the variants in turns in this process, and the memory of each in a process of its own.

    Args:
        network: in eval mode, on the CPU; left as it is.
        plan: what is measured.
        device: where it runs; ONNX Runtime on the CPU alone.
        say: told what goes on.

    Returns:
        JSON-ready: ``multiply_adds`` of the image; ``left_out``, variant -> why it could not be measured; and ``variants``, each
        with its :func:`~sr_nas.jobs.side_by_side.summary` beside the plain network; ``difference``, the largest from the plain
        output; ``gflops``, two for a multiply-add of the plain network; ``peak_bytes``, what a pass adds to the memory of the
        process (of the GPU, on CUDA) at most.
    """
    with tempfile.TemporaryDirectory() as name:
        file, left_out, runs = Path(name) / "network.safetensors", {}, {}
        save_network(file, network)
        for variant in VARIANTS:
            try:
                runs[variant] = _ready(file, variant, device)
            except UserError as error:  # noqa: PERF203
                left_out[variant] = str(error)
        image = _image(plan).to(device)
        outputs = {variant: run(image).clone() for variant, run in runs.items()}

        def prepare(variant: str) -> None:
            (give_freed_memory_back if variant == PLAIN else keep_freed_memory)()
            # A pass for what the change costs.
            runs[variant](image)

        steps = {variant: partial(run, image) for variant, run in runs.items()}
        times = in_turns(steps, plan.rounds, device, say, prepare=prepare)
        keep_freed_memory()
        count = count_macs(network, plan.size)[0][""]
        rows = {}
        for variant, own in times.items():
            say(f"memory of {variant}")
            row = summary(own, times[PLAIN])
            rows[variant] = row | {
                "difference": (outputs[variant] - outputs[PLAIN]).abs().max().item(),
                "gflops": 2e-9 * count / row["seconds"],
                "peak_bytes": _peak_apart(file, variant, plan, device),
            }
    return {"multiply_adds": count, "variants": rows, "left_out": left_out}


def peak(file: str, variant: str, size: tuple[int, int], threads: int, device: str) -> int | None:
    """What a second pass needs at most beyond the memory that the process has before it runs at all, in bytes."""
    torch.set_num_threads(threads)
    where = torch.device(device)
    run, image = _ready(Path(file), variant, where), _image(Plan(size)).to(where)
    # Libraries prepare themselves at their first call.
    run(image[..., :16, :16])
    return added_memory(lambda: run(image), where)


def _peak_apart(file: Path, variant: str, plan: Plan, device: torch.device) -> int | None:
    if variant == ONNX and device.type != "cpu":
        return None
    words = {"file": str(file), "variant": variant, "size": plan.size, "threads": plan.threads, "device": str(device)}
    found: int | None = apart(__name__, "peak", **words)
    return found


def _ready(file: Path, variant: str, device: torch.device) -> Run:
    """Return a variant as a function; raises UserError where it cannot be had."""
    network = load_network(file)
    if variant == OURS:
        return _inferring(prepared(network) if device.type == "cpu" else network.to(device))
    if variant in (PLAIN, KEPT):
        return _inferring(copy.deepcopy(network).to(device))
    if device.type != "cpu":
        raise UserError("ONNX Runtime is measured on the CPU.")
    graph = file.with_suffix(".onnx")
    if not graph.is_file():
        save_onnx(graph, network)
    return _inferring(load_onnx(graph))


def _inferring(run: Run) -> Run:
    def infer(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(x)

    return infer


def _image(plan: Plan) -> Tensor:
    return torch.rand((1, 3, *plan.size), generator=torch.Generator().manual_seed(0))
