"""What a measurement was made on: times are those of one machine, and of what else it did."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine and ``device``, ready for JSON.

    Returns:
        ``cpu``, its model; ``cores``, logical ones; ``usable_cores``, those that this process may run on; ``threads`` of
        PyTorch; ``load``, processes that wanted a core in the last minute, on average; ``memory_bytes``; ``os``; ``python``;
        ``torch``; ``device``. On CUDA also ``gpu``, ``gpu_memory_bytes`` and ``cuda``. What the system does not tell is
        ``None``.
    """
    found = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_bytes": _memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return found


def in_words(found: dict[str, Any]) -> str:
    """Return what :func:`machine` found in two lines."""
    memory = "" if found["memory_bytes"] is None else f", {found['memory_bytes'] / 2**30:.0f} GiB"
    load = "" if found["load"] is None else f", load {found['load']:.1f}"
    threads = f"{found['threads']} thread{'s' * (found['threads'] != 1)}"
    first = f"{found['cpu']}: {threads} on {found['usable_cores']} of {found['cores']} cores{memory}{load}"
    second = f"{found['os']}, Python {found['python']}, PyTorch {found['torch']}"
    if "gpu" in found:
        second += f", {found['gpu']} with {found['gpu_memory_bytes'] / 2**30:.0f} GiB, CUDA {found['cuda']}"
    return f"{first}\n{second}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
