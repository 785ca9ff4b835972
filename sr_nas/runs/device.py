"""The precision a network runs in, and on which devices that is safe."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from sr_nas.errors import UserError
from sr_nas.runs.distributed import launched, local_rank

Precision = Literal["fp32", "bf16", "fp16"]
"""``"bf16"`` and ``"fp16"`` run the network under autocast; the weights and the output stay float32."""

Wanted = Literal["auto", "fp32", "bf16", "fp16"]
"""What an option file may ask for; ``"auto"`` is what :func:`resolve_precision` makes of it."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(device: torch.device, wanted: Wanted) -> Precision:
    """Return the precision to train in: for ``"auto"`` bf16 on CUDA that computes in it, fp16 on other CUDA, else fp32.

    Raises:
        UserError: a half precision was asked for that the device does not compute in.
    """
    if wanted != "auto":
        check_precision(device, wanted)
        return wanted
    if device.type != "cuda":
        return "fp32"
    # Generations before Ampere only emulate bf16, which PyTorch counts as support, and are slower in it than in fp32.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse half precision where the device does not compute in it.

    fp16 is for accelerators: on the CPU it is slow and narrower than bf16. What an accelerator can do is tried by a
    convolution, since autocast turns itself off with no more than a warning where it does not know the type.

    Raises:
        UserError: so it is.
    """
    if precision == "fp32":
        return
    if device.type == "cpu" and precision == "fp16":
        raise UserError("precision fp16: the CPU computes in bf16 or fp32; fp16 is for a GPU.")
    lacks_bf16 = device.type == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported()
    if lacks_bf16 or not _computes(device, HALVES[precision]):
        others = " or ".join(name for name in ("fp32", *HALVES) if name != precision and (device.type, name) != ("cpu", "fp16"))
        raise UserError(f"precision {precision}: {device.type} does not compute in it here; use {others}.")


def _computes(device: torch.device, half: torch.dtype) -> bool:
    x = torch.ones(1, 1, 1, 1, device=device)
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=half):
            result = torch.nn.functional.conv2d(x, x)
    except RuntimeError:
        return False
    return result.dtype == half and bool(result.float().eq(1).all())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Autocast to the precision on the device; nothing for fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtype=HALVES[precision])


# MERGED sr_nas.runs.device: Memory that a run may still take.


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or that this machine and the control group of this process leave; ``None`` if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch has taken from the device and does not use is free to it.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [found for found in (_machine(), *_control_groups(Path("/sys/fs/cgroup"))) if found is not None]
    return min(known, default=None)


def _machine() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(text.split("MemAvailable:")[1].split()[0])
    with suppress(OSError, ValueError, AttributeError):  # macOS tells the whole of it alone; Windows has no such call
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _control_groups(root: Path, groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the limits of this process's group and of those above it leave, in version 2 and 1 of control groups."""
    found = []
    with suppress(OSError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            folder = root / ("memory" if controllers else "") / name.lstrip("/")
            words = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            # Within a container the name may be that of the host, while the mount begins at the container's own group.
            for place in {root / ("memory" if controllers else ""), folder, *folder.parents}:
                if place == root or root in place.parents:
                    found += _left(place, *words)
    return found


def _left(folder: Path, limit: str, usage: str) -> list[int]:
    try:
        most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))  # "max" is no number
        held = (folder / "memory.stat").read_text(encoding="ascii").split()
        reclaimable = int(held[held.index("inactive_file") + 1])
    except (OSError, ValueError):
        return []
    return [max(0, most - used + reclaimable)]


# MERGED sr_nas.runs.device: Which device a run uses, and how much memory it took.


def pick_device(num_gpu: int | str) -> torch.device:
    """``"auto"``: CUDA, else MPS, else CPU; ``0``: CPU; ``1``: one accelerator, which must exist.

    Of the processes that torchrun starts on a machine each gets a GPU of its own, which becomes its current one.

    Raises:
        UserError: ``1`` where PyTorch finds no accelerator, or fewer GPUs than torchrun has started processes.
    """
    if num_gpu == 0:
        return torch.device("cpu")
    if launched():
        return _own_gpu(num_gpu)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if num_gpu == "auto":
        return torch.device("cpu")
    raise UserError("num_gpu: 1 was asked for, but PyTorch finds neither a CUDA nor an MPS device. Set num_gpu to auto or 0.")


def device_named(name: str) -> torch.device:
    """``"cpu"`` or ``"cuda"``, as ``--device`` says.

    Raises:
        UserError: CUDA was asked for where PyTorch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise UserError(f"--device cuda: PyTorch finds no CUDA device. This one {built}. Use --device cpu, or see nvidia-smi.")
    return torch.device(name)


def _own_gpu(num_gpu: int | str) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank() < count:
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
        return device
    if count == 0 and num_gpu == "auto":
        return torch.device("cpu")
    raise UserError(
        f"torchrun has started more processes than the {count} CUDA devices that PyTorch finds here. "
        "Start one for each with --nproc_per_node, or set num_gpu to 0."
    )


def peak_memory(device: torch.device) -> int | None:
    """Largest memory in bytes since the start: allocated on the GPU for CUDA, resident in this process elsewhere.

    Where :func:`reset_peak_memory` can, it counts from there. ``None`` on Windows without CUDA, where the
    standard library cannot tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> bool:
    """Let :func:`peak_memory` count from now on; return whether the system can: CUDA can, and Linux without it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        # 5 resets the peak of the resident set to its present size (proc(5), since Linux 4.0).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory does not suffice, of the device or of the machine."""
    # CUDA has an exception of its own; the CPU and MPS only a text.
    known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    return known or any(text in str(error) for text in ("out of memory", "can't allocate memory", "not enough memory"))


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
