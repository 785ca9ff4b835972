"""The supernets' benchmark from command to table. What it measures is not asserted: that would test the machine."""

from __future__ import annotations

import json

import pytest

from sr_nas.commands.benchmark import main
from sr_nas.jobs import supernet_benchmark


@pytest.mark.parametrize("case", list(supernet_benchmark.CASES))
def test_every_variant_is_measured(case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # In this process: each process of its own loads torch.
    monkeypatch.setattr(supernet_benchmark, "_peak_apart", lambda *words: 2**20)
    small = ("--case", case, "--nf", "16", "--batch", "1", "--size", "16", "--rounds", "1", "--threads", "1")
    assert main(["supernet", *small, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["cases"][case]
    assert list(rows) == ["network", "plain", "fused"]
    assert rows["network"]["ratio"] == 1 and all(row["seconds"] > 0 for row in rows.values())


def test_memory_is_that_of_a_process_of_its_own() -> None:
    plan = supernet_benchmark.Plan(batch=1, size=16, rounds=1, threads=1, settings=(("nf", 64), ("num_blocks", 1)))
    found = supernet_benchmark._peak_apart("sac-imdn", "fused", plan, supernet_benchmark.torch.device("cpu"))
    # The gradients alone are 64 * 9 * 64 values of four bytes and more.
    assert found is None or found > 64 * 9 * 64 * 4
