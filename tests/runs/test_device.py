"""Devices, the precisions they compute in, and the memory that is available."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest
import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.runs.device import (
    _cgroup_cores,
    _cgroup_memory,
    available_memory,
    check_precision,
    peak_memory,
    pick_device,
    quickest_threads,
    reset_peak_memory,
    resolve_precision,
    use_threads,
)
from tests.inference.tensors import upscale

STAT = "anon 5\nfile 9\nactive_file 2\ninactive_file 7\n"


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there() -> None:
    assert pick_device("auto") == pick_device(0) == torch.device("cpu")
    with pytest.raises(UserError, match="num_gpu: 1 was asked for"):
        pick_device(1)


def test_each_process_of_torchrun_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for count, expected in ((0, "cpu"), (2, "cuda:1")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
        assert pick_device("auto") == torch.device(expected)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="more processes than the 1 CUDA devices"):
        pick_device("auto")


class Loud(nn.Module):
    """Values of 65536, beyond fp16."""

    scale = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.constant_(self.conv.weight, 65536 / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_the_cpu_takes_fp32_and_bf16_and_refuses_fp16() -> None:
    check_precision(torch.device("cpu"), "fp32")
    check_precision(torch.device("cpu"), "bf16")
    with pytest.raises(UserError, match="the CPU computes in bf16 or fp32"):
        upscale(Loud(), torch.ones(1, 3, 4, 4), device="cpu", precision="fp16")


def test_auto_is_what_the_device_is_good_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert resolve_precision(torch.device("cpu"), "auto") == resolve_precision(torch.device("mps"), "auto") == "fp32"
    for capability, expected in (((8, 0), "bf16"), ((12, 0), "bf16"), ((7, 5), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert resolve_precision(cuda, "auto") == expected
    assert resolve_precision(torch.device("cpu"), "bf16") == "bf16"
    with pytest.raises(UserError, match="the CPU computes in bf16 or fp32"):
        resolve_precision(torch.device("cpu"), "fp16")


def test_where_autocast_does_not_deliver_the_type_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: torch.no_grad())  # as where it only warns
    with pytest.raises(UserError, match="precision bf16: cpu does not compute in it here; use fp32"):
        check_precision(torch.device("cpu"), "bf16")


def test_an_output_that_is_not_finite_is_an_error() -> None:
    network = Loud()
    assert upscale(network, torch.ones(1, 3, 4, 4), device="cpu").max() == pytest.approx(65536)
    nn.init.constant_(network.conv.weight, torch.nan)
    with pytest.raises(UserError, match="output in fp32 is not finite: its weights are damaged"):
        upscale(network, torch.ones(1, 3, 4, 4), device="cpu")


@pytest.mark.gpu
def test_fp16_runs_on_a_gpu_and_says_where_it_overflows() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    network, lr = Loud(), torch.full((1, 3, 4, 4), 0.5)
    assert upscale(network, lr, device="cuda", precision="fp16").max() == pytest.approx(32768, rel=1e-3)
    with pytest.raises(UserError, match="in fp16 is not finite: use fp32"):
        upscale(network, torch.ones(1, 3, 4, 4), device="cuda", precision="fp16")


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
    assert _cgroup_memory(root, groups) == [1000 - 600 + 7]
    group(root / "outer" / "inner", memory__max=50, memory__current=100, memory__stat=STAT)
    assert sorted(_cgroup_memory(root, groups)) == [0, 407]


def test_version_1_in_a_container_that_sees_its_own_group_alone(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    group(root / "memory", memory__limit_in_bytes=500, memory__usage_in_bytes=100, memory__stat=STAT)
    assert _cgroup_memory(root, groups) == [407]


def test_the_machine_leaves_no_more_than_it_has() -> None:
    available = available_memory(torch.device("cpu"))
    assert 0 < available < psutil.virtual_memory().total


def test_a_limit_on_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    limit = psutil.Process().memory_info().vms + 5_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, -1))
    assert available_memory(torch.device("cpu")) <= 5_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (-1, -1))
    assert available_memory(torch.device("cpu")) > 5_000_000


def test_peak_memory_counts_from_where_it_is_reset() -> None:
    device = torch.device("cpu")
    if not reset_peak_memory(device):
        pytest.skip("this system cannot reset the peak")
    before = peak_memory(device)
    block = np.ones(150_000_000, np.uint8)
    with_block = peak_memory(device)
    del block
    unchanged = peak_memory(device)
    reset_peak_memory(device)
    after = peak_memory(device)
    assert with_block - before > 140e6
    assert unchanged == with_block
    assert with_block - after > 140e6


def test_limits_on_processor_time_above_a_group_count(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("0::/outer/inner\n")
    group(root / "outer" / "inner", cpu__max="max 100000")
    assert _cgroup_cores(root, groups) == []
    group(root / "outer", cpu__max="250000 100000")
    assert _cgroup_cores(root, groups) == [3]
    group(root / "outer" / "inner", cpu__max="50000 100000")
    assert sorted(_cgroup_cores(root, groups)) == [1, 3]


def test_limits_on_processor_time_of_version_1(tmp_path: Path) -> None:
    root, groups = tmp_path / "cgroup", tmp_path / "groups"
    groups.write_text("5:cpu,cpuacct:/docker/abc\n")
    group(root / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert _cgroup_cores(root, groups) == []
    group(root / "cpu", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    assert _cgroup_cores(root, groups) == [2]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without OMP_NUM_THREADS on eight cores; afterwards the threads are as before."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("sr_nas.runs.device.cores", lambda: 8)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        (3, {"OMP_NUM_THREADS": "2"}, 3),
        ("auto", {}, 8),
        (None, {"OMP_NUM_THREADS": "2"}, 2),
        ("auto", {"OMP_NUM_THREADS": "100000"}, 1024),
        ("auto", {"OMP_NUM_THREADS": "4,2"}, 4),
        ("auto", {"OMP_NUM_THREADS": "many"}, 8),
        ("auto", {"OMP_NUM_THREADS": "0"}, 8),
        ("auto", {"LOCAL_WORLD_SIZE": "4"}, 2),
        ("auto", {"LOCAL_WORLD_SIZE": "16"}, 1),
    ],
)
def test_all_libraries_take_the_number_of_threads(
    wanted: int | str | None, environment: dict[str, str], expected: int, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_threads(wanted) == torch.get_num_threads() == cv2.getNumThreads() == expected


@pytest.mark.parametrize(
    ("seconds", "quickest"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.58, 8: 3.0}, 2),  # 4 gain too little
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 1),
        ({1: 1.0, 2: 0.95, 4: 0.5, 8: 0.3}, 8),
        ({1: 1.0, 2: 5.0, 4: 0.5, 8: 0.49}, 4),
    ],
)
def test_the_quickest_number_of_threads_also_beside_other_work(
    seconds: dict[int, float], quickest: int, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steps = [0.0], [0]

    def step() -> None:
        steps[0] += 1
        # The first step of all is slow, and so is every seventh, while another process runs.
        clock[0] += seconds[torch.get_num_threads()] * (50 if steps[0] % 7 == 1 else 1)

    torch.set_num_threads(1)
    monkeypatch.setattr("sr_nas.runs.device.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    count, figures = quickest_threads(step)
    assert count == quickest == torch.get_num_threads()
    assert f"{seconds[8]:.3g} s with 8" in figures
