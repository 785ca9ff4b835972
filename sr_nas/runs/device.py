"""The device of a run, the precision it computes in, its memory, and its threads on the CPU."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from statistics import median
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
# The same for processor time: mount point, and files that hold its limit and its period in microseconds.
CPU_CGROUPS = (("", ("cpu.max",)), ("cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")))


def forked_rng(device: torch.device, enabled: bool = True) -> AbstractContextManager[None]:
    """Return a context at whose end PyTorch's generators, of the CPU and of a CUDA device, are as they were.

    While a CUDA graph is recorded, the device's goes on: a graph keeps its own place in the random numbers.
    """
    forked = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return torch.random.fork_rng([device] if forked else [], enabled)


def wait_for(device: torch.device) -> None:
    """Wait until a device has computed what it was asked to; the CPU has at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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
    """Return the number of CPU cores that this process may use: those it is bound to, or fewer under its container's limit."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_cgroup_cores()]))


def use_threads(count: int | Literal["auto"] | None) -> int:
    """Set and return the threads of PyTorch, and of OpenCV where it is loaded, 1024 at most. ONNX Runtime takes PyTorch's.

    ``"auto"`` and ``None`` are OMP_NUM_THREADS, where it is set, else this process's share of all cores.
    """
    if not isinstance(count, int):
        count = omp_threads() or max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(count := min(count, 1024))
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(count)
    return count


def omp_threads() -> int | None:
    """Return the number in OMP_NUM_THREADS, which the user or torchrun has set, or ``None``."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def quickest_threads(step: Callable[[], object]) -> tuple[int, str]:
    """Time a step with 1, 2, 4, ... threads up to all cores and set the quickest number; return it and the figures in words.

    A larger number must be a tenth quicker. Numbers take turns, and medians count: other processes disturb all alike.
    """
    most, started, best = cores(), time.perf_counter(), 1
    seconds: dict[int, list[float]] = {count: [] for count in sorted({*(2**power for power in range(most.bit_length())), most})}
    step()  # whatever happens in the first step alone
    while len(seconds[most]) < 3 and (not seconds[most] or time.perf_counter() - started < 20):
        for count, times in seconds.items():
            use_threads(count)
            begun = time.perf_counter()
            step()
            times.append(time.perf_counter() - begun)
    medians = {count: median(times) for count, times in seconds.items()}
    for count, value in medians.items():
        best = count if value < 0.9 * medians[best] else best
    return use_threads(best), ", ".join(f"{value:.3g} s with {count}" for count, value in medians.items())


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


def _cgroup_folders(mount: str, root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups (Linux: containers, batch systems such as Slurm), where there are any.

    A limit of any group above counts too. In a container the mount point itself is the container's group.
    """
    with suppress(OSError):
        names = {line.split(":", 2)[2].strip("/") for line in groups.read_text(encoding="utf-8").splitlines()}
        top = root / mount
        yield from {folder for name in names for folder in (top / name / "_").parents if folder.is_relative_to(top)}


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes that each memory limit on this process leaves."""
    left = []
    for mount, limit, usage in CGROUPS:
        for folder in _cgroup_folders(mount, root, groups):
            with suppress(OSError, ValueError):  # no such group, or no limit ("max")
                most, used = (int((folder / file).read_text(encoding="ascii")) for file in (limit, usage))
                stat = (folder / "memory.stat").read_text(encoding="ascii").split()
                # Cached files that the system can drop count as used.
                left.append(max(0, most - used + int(stat[stat.index("inactive_file") + 1])))
    return left


def _cgroup_cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the cores, rounded up, that each limit on this process's processor time gives it."""
    limits = []
    for mount, files in CPU_CGROUPS:
        for folder in _cgroup_folders(mount, root, groups):
            with suppress(OSError, ValueError):  # as above
                quota, period = map(int, " ".join((folder / file).read_text(encoding="ascii") for file in files).split())
                limits += [-(-quota // period)] * (quota > 0)
    return limits


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
