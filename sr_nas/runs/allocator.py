"""How memory is taken from the system and given back."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**31 - 1
"""Bytes of freed memory that stay with the process; all that the argument of mallopt can say."""
LARGEST = (2**30, 2**25)
"""Bytes up to which memory is taken from what is kept: any usual tensor; or else the most that older versions of glibc take."""


USUAL = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}
"""Where glibc's own thresholds have gone once a program has freed large tensors."""


def keep_freed_memory() -> bool:
    """Let glibc keep memory that is freed, and return whether it does.

    By default it asks the system for each large tensor and gives it back at once, and the system clears it again page by page:
    most of the time of a pass on a CPU may go there. Nothing is changed where another allocator is in place, or where the
    environment tells glibc what to do (``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES`` and the like).
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))


def give_freed_memory_back() -> None:
    """Let glibc do as it does by itself again, and give back what was kept; where :func:`keep_freed_memory` did anything."""
    mallopt = _mallopt()
    if mallopt is not None:
        for name, value in USUAL.items():
            mallopt(name, value)
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt() -> Callable[[int, int], int] | None:
    told = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if not sys.platform.startswith("linux") or told:
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return None
    return found
