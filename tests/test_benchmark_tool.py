"""The benchmark of own speed: what its figures mean, and that every measurement runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from measuring.searches import CASES, Calls, search_step, supernet_pass
from measuring.timing import in_turns

from sr_nas.errors import UserError
from sr_nas.ops.reparam import KINDS
from sr_nas.registry import SPACES
from sr_nas.runs.device import cores
from tests.conftest import REPOSITORY

HOW = (*map(str, sorted({1, 2, cores()})), "2, PyTorch's waiting")

TRAINING = {"plain loop", "plain loop, channels_last", "trainer", *KINDS, "moving average", "loading", "validation"}


def test_ratios_are_to_the_first_variant() -> None:
    def work(count: int) -> None:
        for _ in range(count):
            pass

    rows = in_turns({"once": lambda: work(200_000), "thrice": lambda: work(600_000)}, 5, "cpu", 1)
    assert rows["once"]["ratio"] == 1
    assert 2 < rows["thrice"]["ratio"] < 4.5
    assert rows["thrice"]["seconds"] > rows["once"]["seconds"] > 0


@pytest.mark.long
@pytest.mark.parametrize(("case", "most"), [("sac-imdn", 1000), ("sa-imdn", 1300), ("dlsr", 3)])
def test_few_calls_of_a_supernet_on_an_accelerator(case: str, most: int) -> None:
    """Their number does not depend on the size of a patch; that of DLSR is in passes of the plain network."""
    found = {}
    for variant in ("network", "fused, few calls"):
        first, step = (supernet_pass(case, variant, 1, 16, {}, torch.device("cpu")) for _ in range(2))
        first()  # which builds what all supernets of one kind share
        with Calls() as found[variant]:
            step()
    network, fused = found.values()
    assert 300 < network.computing < network.all
    assert fused.computing <= (most * network.computing if most < 10 else most)
    # Keeping the gradient of a parameter is a call that computes nothing.
    arch, partial = CASES[case]
    parameters = len(list(SPACES.get(arch)(scale=2, partial_channel=partial).parameters()))
    assert fused.all - parameters <= 2.5 * fused.computing


@pytest.mark.slow
def test_further_ways_of_a_step_run_on_a_cpu_but_for_graphs() -> None:
    search_step("dlsr", "fused channels_last bf16, first", 1, 8, {"nf": 16}, torch.device("cpu"))()
    with pytest.raises(UserError, match=r"search\.cuda_graph is true, but the device is cpu"):
        search_step("dlsr", "fused graph, first", 1, 8, {"nf": 16}, torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "variants"),
    [
        ("supernet --case sac-imdn --nf 16 --batch 1 --size 8", {"network", "plain", "fused", "fused, few calls"}),
        ("search-step --case dlsr --nf 16 --batch 1 --size 8", {"plain, first", "fused, first", "budget, first"}),
        ("training --case imdn --nf 16 --batch 1 --size 8", TRAINING),
        ("threads", {f"threads {how}: {place}" for how in HOW for place in ("alone", "beside them")}),
        ("inference --size 40x24 --beside", {"plain", "torch", "onnxruntime"}),
        ("inference --megapixels 0.01", {"sr-nas inference"}),
        ("sweep --trials 3", {"start of a trial's process", "driver, for each trial"}),
        ("data --images 2 --batch 2 --gt_size 32", {"folder", "folder, cache", "lmdb", "basicsr, folder"}),
    ],
)
def test_every_measurement_runs(words: str, variants: set[str]) -> None:
    command = [sys.executable, "tools/benchmark.py", *words.split(), "--rounds", "1", "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout[done.stdout.index("{") :])
    tables = [value for key, value in printed.items() if key != "machine"]
    assert len(tables) == 1 + ("--beside" in words) and all(set(rows) == variants for rows in tables)
    assert all(row["seconds"] > 0 for rows in tables for row in rows.values())
