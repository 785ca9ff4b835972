"""The device of a run, the precision it computes in, and its memory."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from sr_nas.errors import UserError
from sr_nas.runs.distributed import launched, local_rank

if sys.platform != "win32":
    import resource

Precision = Literal["fp32", "bf16", "fp16"]
"""``"bf16"`` and ``"fp16"`` run the network under autocast; the weights and the output stay float32."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Control groups of Linux, version 2 and 1: mount point, and files with the limit and the usage in bytes.
CGROUPS = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))


def pick_device(num_gpu: int | str) -> torch.device:
    """Return the device of a run: for ``"auto"`` CUDA, else MPS, else the CPU; ``0`` is the CPU; ``1`` requires an accelerator.

    Each process that torchrun starts on a machine gets its own GPU, which becomes the current one.

    Raises:
        UserError: PyTorch finds no accelerator for ``1``, or fewer GPUs than torchrun has started processes.
    """
    if num_gpu == 0:
        return torch.device("cpu")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if launched():
        if local_rank() < gpus:
            torch.cuda.set_device(local_rank())
            return torch.device("cuda", local_rank())
        if gpus or num_gpu == 1:
            raise UserError(
                f"torchrun has started more processes than the {gpus} CUDA devices that PyTorch finds here. "
                "Start one for each with --nproc_per_node, or set num_gpu to 0."
            )
        return torch.device("cpu")
    if gpus or torch.backends.mps.is_available():
        return torch.device("cuda" if gpus else "mps")
    if num_gpu == 1:
        raise UserError("num_gpu: 1 was asked for, but PyTorch finds neither a CUDA nor an MPS device. Set num_gpu to auto or 0.")
    return torch.device("cpu")


def resolve_precision(device: torch.device, precision: Precision | Literal["auto"]) -> Precision:
    """Return a checked precision; for ``"auto"`` bf16 on CUDA that computes in it, fp16 on other CUDA, else fp32."""
    if precision != "auto":
        check_precision(device, precision)
        return precision
    if device.type != "cuda":
        return "fp32"
    # Generations before Ampere only emulate bf16, which PyTorch counts as support, and are slower in it than in fp32.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def check_precision(device: torch.device, precision: Precision) -> None:
    """Raise UserError where the device does not compute in a precision. fp16 is for accelerators: a CPU is slow in it."""
    if precision == "fp32":
        return
    if device.type == "cpu" and precision == "fp16":
        raise UserError("precision fp16: the CPU computes in bf16 or fp32; fp16 is for a GPU.")
    lacks_bf16 = device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported()
    if lacks_bf16 or not _computes(device, HALVES[precision]):
        others = "fp32" if device.type == "cpu" else "fp32 or fp16" if precision == "bf16" else "fp32 or bf16"
        raise UserError(f"precision {precision}: {device.type} does not compute in it here; use {others}.")


def _computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Try a convolution: where autocast does not know the type, it only warns and turns itself off."""
    x = torch.ones(1, 1, 1, 1, device=device)
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype):
            result = torch.nn.functional.conv2d(x, x)
    except RuntimeError:
        return False
    return result.dtype == dtype and bool(result.float().eq(1).all())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a context that autocasts to the precision; it does nothing for fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=HALVES[precision])


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take: on the GPU, or of the machine and of its container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # PyTorch's cache: memory that it has reserved on the device and does not use now.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *_cgroup_memory(), *_address_space()])


def _address_space() -> list[int]:
    """Return the bytes that a limit on this process's address space leaves (``ulimit -v``)."""
    limit = -1 if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_AS)[0]
    return [] if limit == -1 else [max(0, limit - psutil.Process().memory_info().vms)]


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes that each memory limit on this process leaves (Linux: containers, batch systems such as Slurm)."""
    left = []
    with suppress(OSError):
        names = {line.split(":", 2)[2].strip("/") for line in groups.read_text(encoding="utf-8").splitlines()}
        for mount, limit, usage in CGROUPS:
            top = root / mount
            # A limit of any group above counts too. In a container the mount point itself is the container's group.
            for folder in {folder for name in names for folder in (top / name / "_").parents if folder.is_relative_to(top)}:
                with suppress(OSError, ValueError):  # no such group, or no limit ("max")
                    most, used = (int((folder / file).read_text(encoding="ascii")) for file in (limit, usage))
                    stat = (folder / "memory.stat").read_text(encoding="ascii").split()
                    # Cached files that the system can drop count as used.
                    left.append(max(0, most - used + int(stat[stat.index("inactive_file") + 1])))
    return left


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes since the start or the last reset: allocated on a CUDA device, else resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> bool:
    """Restart :func:`peak_memory` from now; return whether that is possible: for CUDA, and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # 5 resets the peak of the resident set to its present size (proc(5), since Linux 4.0).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
