"""Setting of glibc's allocator that saves page faults. Imports nothing heavy: the command line calls it before PyTorch loads."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in the process for the next tensor; return whether it does.

    By default glibc gets each large tensor from the system and returns it at once, and the system clears its pages again: this
    may take most of the time of a pass on a CPU. Other allocators, and settings of glibc in the environment, are left alone.
    """
    configured = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if configured or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    # 1 GiB is above any usual tensor; older versions of glibc accept no more than 32 MiB.
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
