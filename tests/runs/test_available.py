from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sr_nas.runs.device import _control_groups, available_memory

STAT = "anon 5\nfile 9\nactive_file 2\ninactive_file 7\n"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_tightest_limit_above_a_group_counts(tmp_path: Path) -> None:
    """Version 2: what the limit leaves, and files that the system can drop are not taken."""
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("0::/outer/inner\n")
    group(root, memory__stat=STAT)
    group(root / "outer", memory__max=1000, memory__current=600, memory__stat=STAT)
    group(root / "outer" / "inner", memory__max="max", memory__current=100, memory__stat=STAT)
    assert _control_groups(root, groups) == [1000 - 600 + 7]
    group(root / "outer" / "inner", memory__max=50, memory__current=100, memory__stat=STAT)
    assert sorted(_control_groups(root, groups)) == [0, 407]


def test_version_1_in_a_container_that_sees_its_own_group_alone(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    group(root / "memory", memory__limit_in_bytes=500, memory__usage_in_bytes=100, memory__stat=STAT)
    assert _control_groups(root, groups) == [407]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux tells what is available")
def test_the_machine_leaves_no_more_than_it_has() -> None:
    available = available_memory(torch.device("cpu"))
    assert available is not None
    assert 0 < available < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
