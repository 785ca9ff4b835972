"""Searches to a budget, the range of a space, and tables of latency, as commands."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sr_nas.complexity.costs import complexity, count_params
from sr_nas.complexity.latency import agreement, read_latency
from sr_nas.errors import UserError, amount, short
from sr_nas.genotype import Genotype
from sr_nas.jobs.latency import Clock
from sr_nas.networks.imdn import IMDN
from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.registry import NETWORKS
from sr_nas.runs.run_dir import read_history
from sr_nas.search.budget import draw
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.spaces.plain import PlainSpace
from sr_nas.task import network_costs
from tests.jobs.processes import TINY_SEARCH, InThisProcess, run

CANDIDATES = ["conv_3x3", "dsconv_3x3", "dil_dsconv_5x5_bn"]


def search(root: Path, *words: str, code: int = 0, more: tuple[str, ...] = ()) -> str:
    return run("search", "-opt", TINY_SEARCH, *more, "--force_yml", f"path:experiments_root={root}", *words, code=code)


@pytest.mark.long
def test_a_search_to_a_budget_says_what_it_costs_and_writes_its_front(tmp_path: Path, reports: None) -> None:
    printed = search(tmp_path, "search:budget:macs_hr=1.7G", "search:budget:params=8K", more=("--front", "1.5G,2G,1G"))
    assert "networks of this space have macs_hr 1.416G to 2.577G, params 6.361K to 11.35K, macs_lr 5.666G to 10.31G" in printed
    folder = tmp_path / "tiny"
    for record in read_history(folder):
        for name, limit in (("macs_hr", 1.7e9), ("params", 8e3)):
            costs = record["budget"][name]
            assert costs["limit"] == limit and costs["decoded"] <= limit
            assert costs["decoded"] == record["params" if name == "params" else "macs_hr_1280x720"]
    content = json.loads((folder / "front.json").read_text())
    networks = content["networks"]
    assert content["cost"] == "macs_hr" and len(networks) > 3
    for dearer, cheaper in pairwise(networks):
        assert dearer["macs_hr"] > cheaper["macs_hr"] and dearer["log_beta"] > cheaper["log_beta"]
    for network in (networks[0], networks[-1]):
        genotype = Genotype.from_json(network["genotype"])
        counted = complexity(NETWORKS.get("IMDN")(scale=2, nf=16, num_blocks=1, genotype=genotype))
        assert (network["macs_hr"], network["params"]) == (counted["macs_hr_1280x720"], counted["params"])
    for limit in ("1.5G", "2G"):
        best = next(network for network in networks if network["macs_hr"] <= amount(limit))
        assert f"front     macs_hr up to {limit}: {short(best['macs_hr'])}, {Genotype.from_json(best['genotype'])}" in printed
    assert "front     macs_hr up to 1G: none" in printed
    assert all((folder / "plots" / f"{name}.png").stat().st_size for name in ("budget", "front", "beta"))


@pytest.mark.slow
def test_the_table_of_a_sweep_has_every_cost_and_the_genotype(
    tmp_path: Path, timed: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(0.0)
    monkeypatch.setattr("sr_nas.analysis.sweep.Processes", lambda *_: InThisProcess())
    words = ["-opt", TINY_SEARCH, "--grid", "search:budget:macs_hr=1.7G,2G", "--seeds", "0,1"]
    printed = run("sweep", *words, "--force_yml", f"path:experiments_root={tmp_path}")
    assert "MACs, HR 1280x720, G" in printed and "MACs, LR 1280x720, G" in printed and "latency, HR 1280x720, ms" in printed
    with (tmp_path / "tiny_sweep" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = [(row["search:budget:macs_hr"], row["seed"]) for row in rows]
    assert points == [("1.7G", "0"), ("1.7G", "1"), ("2G", "0"), ("2G", "1")]
    for row in rows:
        names = row["genotype"].removeprefix("IMDN(").removesuffix(")").split(", ")
        assert row["genotype"] in printed
        counted = complexity(NETWORKS.get("IMDN")(scale=2, nf=16, num_blocks=1, genotype=names))
        assert {name: float(row[name]) for name in counted} == counted
        assert float(row["latency_ms"]) == pytest.approx(counted["params"] / 1000, rel=0.05)  # BatchNorm is folded before it runs


@pytest.mark.slow
def test_a_budget_above_the_largest_network_is_no_budget_to_the_bit(tmp_path: Path) -> None:
    search(tmp_path, "name=free")
    search(tmp_path, "name=above", "search:budget:macs_hr=3G")
    free, above = (read_history(tmp_path / name) for name in ("free", "above"))
    assert [record["alpha"] for record in free] == [record["alpha"] for record in above]
    assert [record["loss"] for record in free] == [record["loss"] for record in above]


def test_a_budget_that_no_network_meets_names_the_cheapest(tmp_path: Path) -> None:
    printed = search(tmp_path, "search:budget:macs_hr=1G", code=1)
    assert "search.budget.macs_hr is 1G, and the cheapest network has 1.416G: IMDN(dsconv_3x3, dsconv_3x3" in printed
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(("text", "number"), [("20G", 2e10), ("150K", 1.5e5), ("2.5m", 2.5e6), ("15", 15.0), (" 1e9 ", 1e9)])
def test_numbers_as_people_write_them(text: str, number: float) -> None:
    assert amount(text) == number
    assert load_options(SearchOptions, TINY_SEARCH, [f"search:budget:params={text}"]).search.budget.limits() == {"params": number}
    assert amount(short(number)) == pytest.approx(number, rel=1e-3)


@pytest.mark.parametrize("text", ["many", "-3G", "0", "G", "nan", "[1]"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"search\.budget\.params"):
        load_options(SearchOptions, TINY_SEARCH, [f"search:budget:params={text}"])


def test_the_range_of_a_space() -> None:
    rows = {row["cost"]: row for row in json.loads(run("complexity", "--space", TINY_SEARCH, "--json"))}
    least, most = (
        {"arch": "IMDN", "genotype": dict.fromkeys(("conv1", "conv2", "conv3", "conv4"), name)} for name in CANDIDATES[1::-1]
    )
    for end, key, genotype in (("least", "cheapest", least), ("most", "dearest", most)):
        counted = complexity(NETWORKS.get("IMDN")(scale=2, nf=16, num_blocks=1, genotype=Genotype.from_json(genotype)))
        assert rows["params"][key] == rows["macs_hr"][key] == genotype
        assert (rows["params"][end], rows["macs_hr"][end]) == (counted["params"], counted["macs_hr_1280x720"])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let a network take a millisecond for each 1,000 parameters, and noise of a relative size."""

    def use(noise: float) -> None:
        random = np.random.default_rng(0)

        def elapsed(self: Clock, step: Any) -> float:
            assert isinstance(step, partial)
            return count_params(step.func) / 1000 * (1 + noise * float(random.standard_normal()))

        monkeypatch.setattr(Clock, "_time", elapsed)

    return use


def latency(file: Path, *words: str, code: int = 0) -> str:
    return run("latency", "-opt", TINY_SEARCH, "-o", file, "--lr", "16x12", "--threads", "1", *words, code=code)


def test_a_table_of_latency_of_several_widths(tmp_path: Path, timed: Callable[[float], None]) -> None:
    """Each width has its own row of each label; blocks of the same candidates share what one of them adds."""
    timed(0.0)
    file = tmp_path / "latency.json"
    words = (
        *("network_g:type=PLAIN", "network_g:nf=[8,16]", "network_g:num_blocks=2", "network_g:attentions=[spab,pa]"),
        "network_g:candidates=[conv_3x3_2,dwconv_3x3,skip]",
    )
    assert "Spearman 1.0" in latency(file, "--networks", "8", "--rounds", "3", "--force_yml", *words)
    space = PlainSpace(2, nf=[8, 16], num_blocks=2, candidates=["conv_3x3_2", "dwconv_3x3", "skip"], attentions=["spab", "pa"])
    costs = network_costs(space, {"latency_ms": math.inf, "params": math.inf}, read_latency(file, space))
    for seed in range(8):
        genotype = draw(space, [], 1, np.random.default_rng(seed))[0]
        expected = costs["params"].of(genotype, space.choices()) / 1000
        assert costs["latency_ms"].of(genotype, space.choices()) == pytest.approx(expected, rel=1e-6)
    narrower = PlainSpace(2, nf=[16, 8], num_blocks=2, candidates=["skip", "dwconv_3x3"], attentions=["spab", "pa"])
    assert read_latency(file, narrower).of_candidates["body1"]["8"]["skip"] == 0
    wider = PlainSpace(2, nf=[8, 24], num_blocks=2, candidates=["skip", "dwconv_3x3"], attentions=["spab", "pa"])
    with pytest.raises(UserError, match="lacks candidates of this space"):
        read_latency(file, wider)


@pytest.mark.slow
def test_a_table_of_latency_decides_a_search(tmp_path: Path, timed: Callable[[float], None]) -> None:
    timed(0.001)
    file, space = tmp_path / "latency.json", IMDNSpace(2, 16, 1, CANDIDATES)
    printed = latency(file)
    assert "30 random networks" in printed and "Spearman 0.9" in printed and file.with_suffix(".png").stat().st_size
    table = read_latency(file, space)
    genotype = Genotype("IMDN", tuple((label, ("dsconv_3x3",)) for label in space.labels))
    assert table.fixed == pytest.approx(count_params(space.derive(genotype)) / 1000, rel=0.02)
    for label, more in (("conv1", 2304 - 144 - 256), ("conv3", 12 * 16 * 9 - 12 * 9 - 12 * 16 - 0)):
        assert table.of_candidates[label]["conv_3x3"] == pytest.approx(more / 1000, abs=0.03)
    words = ("search:budget:latency_ms=8", f"search:latency_table={file}")
    printed = search(tmp_path, *words)
    record = read_history(tmp_path / "tiny")[-1]
    assert record["budget"]["latency_ms"]["decoded"] <= 8 and record["params"] == pytest.approx(8000, rel=0.1)
    found = re.search(r"latency   (\S+) ms measured \(spread 0%\), (\S+) predicted, budget 8\n(?!  )", printed)
    assert found and [float(ms) for ms in found.groups()] == pytest.approx([record["params"] / 1000] * 2, rel=0.01)
    with pytest.raises(UserError, match=r"is of .*'nf': 16.*, and this search of .*'nf': 32"):
        read_latency(file, IMDNSpace(2, 32, 1, CANDIDATES))
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"machine": content["machine"] | {"host": "another"}}))
    assert "was measured on another (cpu)" in search(tmp_path, *words, code=1)
    search(tmp_path, *words, "search:foreign_latency=true", "search:epochs=1")
    halved = [row | {"measured": row["measured"] / 2} for row in content["check"]["networks"]]
    file.write_text(json.dumps(content | {"check": content["check"] | {"networks": halved}}))
    printed = search(tmp_path, *words, "search:epochs=1")
    slower = re.search(r"latency   (\S+) ms measured.*\n +3 networks of latency.json take 2.00 times .* takes (\S+) ms", printed)
    assert slower and float(slower[2]) == pytest.approx(float(slower[1]) / 2, rel=0.01)
    file.write_text(json.dumps(content | {"check": content["check"] | {"spearman": 0.5}}))
    assert "cannot be trusted: it orders measured networks with a Spearman correlation of 0.50" in search(
        tmp_path, *words, code=1
    )
    for damaged in (
        "",
        "[]",
        '{"machine": 1}',
        json.dumps(content | {"how": {}}),
        json.dumps(content | {"candidates": {"conv1": {}}}),
        json.dumps(content | {"check": content["check"] | {"networks": []}}),
        json.dumps(content | {"check": content["check"] | {"networks": [{"genotype": 1}]}}),
    ):
        file.write_text(damaged)
        assert "search.latency_table" in search(tmp_path, *words, code=1)
    assert "exists; --overwrite replaces it" in latency(file, code=1)
    file.unlink()
    assert "latency.png exists; --overwrite replaces it" in latency(file, code=1)
    assert "a table is a .json file" in latency(tmp_path / "latency.png", "--overwrite", code=1)


def test_noise_is_not_written(tmp_path: Path, timed: Callable[[float], None]) -> None:
    timed(0.3)
    printed = latency(tmp_path / "latency.json", code=1)
    assert "nothing is written: the times of one and the same network spread by" in printed
    assert not list(tmp_path.iterdir())


def test_slow_rounds_are_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of half the speed for half of the time: beside each other, three networks take what they take."""
    turns = count()

    def elapsed(_: Clock, step: partial[Any]) -> float:
        return count_params(step.func) * (1.0 + (next(turns) // 3) % 2)

    monkeypatch.setattr(Clock, "_time", elapsed)
    networks = [IMDN(2, nf, 1) for nf in (8, 12, 16)]
    clock = Clock(torch.device("cpu"), size=(8, 8), rounds=12)
    clock.measure(networks[:1])
    assert clock.spread == pytest.approx(1 / 1.5)
    clock = Clock(torch.device("cpu"), size=(8, 8), rounds=12)
    clock.measure(networks)
    assert clock.spread == pytest.approx(0, abs=1e-12)


def test_agreement_by_hand() -> None:
    factor, offset, quality = agreement([1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 9.0])
    assert (factor, offset) == pytest.approx((2, 1)) and quality["mean_error"] == pytest.approx(0, abs=1e-12)
    assert quality["spearman"] == pytest.approx(1) and quality["within_10_percent"] == 1
    # The last of four is 20 where the others say 9: predicted without it, it is off by 55 %.
    quality = agreement([1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 7.0, 20.0])[2]
    assert quality["worst"] >= 0.55 and quality["within_10_percent"] < 0.5


def test_latency_of_a_network_on_request(timed: Callable[[float], None]) -> None:
    timed(0.0)
    words = ["--arch", "imdn", "--nf", "16", "--num_blocks", "1", "--scale", "2", "--latency", "--json"]
    said, line = run("complexity", *words).splitlines()
    assert re.fullmatch(r"latency: 1 network, 30 times each: about \d+ s", said)
    counted = json.loads(line)
    assert counted["latency_ms"] == pytest.approx(counted["params"] / 1000) and counted["latency_spread"] == 0
    assert torch.get_num_threads() == 1
