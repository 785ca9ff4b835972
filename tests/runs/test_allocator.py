"""Memory that is freed stays with the process, so that the next tensor of its size costs no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from sr_nas.runs.allocator import give_freed_memory_back, keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(2**24, np.uint8).fill(1)  # 16 MiB are 4,096 pages
        np.ones(2**26, np.uint8).fill(1)  # 64 MiB are 16,384
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(keep_freed_memory())
faults()
print(faults())
give_freed_memory_back()
print(faults())
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_kept_memory_costs_no_page_faults() -> None:
    told, kept, given_back = run()
    if told == "False":
        pytest.skip("this system's C library is not glibc")
    assert int(kept) < 1000 < int(given_back)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told")
def test_what_the_environment_says_is_left_alone() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
