"""Freed memory that glibc keeps costs no page faults when it is taken again."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")

CODE = """
import resource
import numpy as np
from sr_nas.runs.allocator import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**24, np.uint8).fill(1)  # 16 MiB are 4,096 pages
        np.ones(2**26, np.uint8).fill(1)  # 64 MiB are 16,384
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
by_default = faults()
print(keep_freed_memory())
faults()
print(by_default, faults())
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


def test_kept_memory_costs_no_page_faults() -> None:
    changed, before, after = run()
    if changed == "False":
        pytest.skip("this system's C library is not glibc")
    assert int(after) < 1000 < int(before)


def test_settings_in_the_environment_are_left_alone() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
