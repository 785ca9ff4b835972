"""Memory that a run may still take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch


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
