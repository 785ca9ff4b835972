"""The description of the machine, against what the system says elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from sr_nas.runs.machine import in_words, machine


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_the_machine_is_that_of_proc() -> None:
    found = machine(torch.device("cpu"))
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert found["memory_bytes"] == pytest.approx(int(total.split()[1]) * 1024, rel=0.01)
    processors = Path("/proc/cpuinfo").read_text().count("processor\t")
    assert found["usable_cores"] <= found["cores"] and processors in (0, found["cores"])
    allowed = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cpus_allowed:"))
    assert found["usable_cores"] == int(allowed.split()[1].replace(",", ""), 16).bit_count()
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    assert found["load"] == pytest.approx(os.getloadavg()[0], abs=1)


def test_the_words_hold_all_of_it() -> None:
    found = {"cpu": "Fast 9000", "threads": 1, "cores": 8, "usable_cores": 4, "load": 0.5, "memory_bytes": 16 * 2**30}
    found |= {"os": "Linux-6", "python": "3.11", "torch": "2.4", "device": "cuda"}
    found |= {"gpu": "Card", "gpu_memory_bytes": 80 * 2**30, "cuda": "12.4"}
    assert in_words(found) == (
        "Fast 9000: 1 thread on 4 of 8 cores, 16 GiB, load 0.5\nLinux-6, Python 3.11, PyTorch 2.4, Card with 80 GiB, CUDA 12.4"
    )
