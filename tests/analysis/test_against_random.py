"""A search beside random networks and the hand-made one: who is compared, what is computed, and that nothing is trained twice."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sr_nas.analysis import against_random
from sr_nas.analysis.against_random import HANDMADE, SEARCHED, compare, hand_made, line_up, of_front, paired, read_recipe
from sr_nas.complexity.costs import count_params
from sr_nas.errors import UserError
from sr_nas.export.model import load_structure
from sr_nas.genotype import Genotype
from sr_nas.jobs.run import PROVENANCE
from sr_nas.networks.imdn import IMDN, LABELS
from sr_nas.options.load import dump_options, load_options
from sr_nas.runs.run_dir import CHECKPOINT, OPTIONS, append_history, read_history
from sr_nas.search.budget import front
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.task import find_task, network_costs, search_options
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING, run

CANDIDATES = ["conv_3x3", "dsconv_3x3", "dil_dsconv_5x5_bn"]
SR = find_task("super-resolution")


def picks(*names: str) -> Genotype:
    return Genotype("IMDN", tuple((label, (name,)) for label, name in zip(LABELS, names, strict=True)))


@pytest.mark.parametrize(("count", "seed"), [(100, 0), (2, 1)])
def test_random_networks_are_those_of_the_band(count: int, seed: int) -> None:
    """All 81 networks are counted: whoever costs within 5 % is drawn, but the searched network, and nobody else is."""
    space = IMDNSpace(2, nf=16, num_blocks=1, candidates=CANDIDATES)
    costs = network_costs(space, {"params": math.inf})
    searched = picks("conv_3x3", "conv_3x3", "dil_dsconv_5x5_bn", "conv_3x3")
    sizes = {
        genotype: sum(parameter.numel() for parameter in space.derive(genotype).parameters())
        for genotype in itertools.starmap(picks, itertools.product(CANDIDATES, repeat=4))
    }
    band = {genotype for genotype, size in sizes.items() if abs(size / sizes[searched] - 1) <= 0.05} - {searched}
    assert {-1, 1} <= {round(10 * (size / sizes[searched] - 1)) for size in sizes.values()}  # there are some just outside
    contenders, notes = line_up(SR, space, searched, costs, count, seed)
    assert [each.name for each in contenders] == [SEARCHED, *(f"random{k}" for k in range(len(contenders) - 2)), HANDMADE]
    drawn = [each.genotype for each in contenders[1:-1]]
    assert len(set(drawn)) == len(drawn) == min(count, len(band)) and set(drawn) <= band and 2 < len(band) < 60
    assert ("that is all of them, and 100 were asked for" in notes[0]) == (count > len(band))
    for each in contenders:
        assert each.costs["params"] == sizes.get(each.genotype)
    assert contenders[-1].genotype == picks(*["conv_3x3"] * 4) and "at nf 16, +" in notes[1]


def test_the_hand_made_network_has_the_nearest_width() -> None:
    """By brute force over all widths that IMDN has, multiples of 4 from 8 on."""
    costs = {nf: count_params(IMDN(2, nf=nf, num_blocks=1)) for nf in range(8, 49, 4)}
    targets = (1, costs[44], (costs[20] + costs[24]) // 2 - 1, (costs[20] + costs[24]) // 2 + 1)
    block = SR.network_block(IMDN(2, nf=100, num_blocks=1, genotype=["dsconv_3x3"] * 4))
    # The first guess is for costs that grow as the square of the width: too wide for their roots, too narrow for their squares.
    for power, target in itertools.product((0.5, 1, 2), targets):
        network = hand_made(block, lambda network, power=power: count_params(network) ** power, target**power)
        assert network is not None and network.settings()["num_blocks"] == 1
        assert network.settings()["nf"] == min(costs, key=lambda nf: abs(costs[nf] ** power - target**power))
        assert network.genotype == IMDN(2).genotype


def test_networks_of_the_front_are_the_best_within_each_budget(tmp_path: Path) -> None:
    space: Any = IMDNSpace(2, 16, 1, ["conv_3x3", "dsconv_3x3"])
    costs = network_costs(space, {"macs_hr": math.inf})
    weights = {label: torch.tensor([0.9, 0.1]) for label in space.labels}
    networks = [
        {"macs_hr": each.costs[0], "genotype": each.genotype.to_json()} for each in front(space, weights, [*costs.values()])
    ]
    (tmp_path / "front.json").write_text(json.dumps({"cost": "macs_hr", "networks": networks}))
    limits = [costs["macs_hr"].most, costs["macs_hr"].most - 1, costs["macs_hr"].most - 2, costs["macs_hr"].least - 1]
    found = of_front(SR, space, costs, tmp_path, limits)
    assert [str(each.genotype) for each in found] == [str(Genotype.from_json(row["genotype"])) for row in networks[:2]]
    assert [each.costs["macs_hr"] for each in found] == [row["macs_hr"] for row in networks[:2]]


def test_no_network_is_made_by_hand_where_none_is_published() -> None:
    space = DLSRSpace(2, nf=8, num_cells=4, candidates=["conv_1x1", "sep_conv_3x3"])
    costs = network_costs(space, {"params": math.inf})
    searched = space.decode({label: torch.linspace(1, 2, len(choice.candidates)) for label, choice in space.choices().items()})
    contenders, notes = line_up(SR, space, searched, costs, 4, 0)
    assert contenders[-1].name != HANDMADE and "hand-made network: none, as DLSR" in notes[1]
    # The links cost nothing: they vary within the band, and no network is the searched one with its two inputs turned round.
    assert all(each.costs["params"] == contenders[0].costs["params"] for each in contenders)
    links = [set(each.genotype["inputs4"]) for each in contenders if each.genotype.picks[:3] == searched.picks[:3]]
    assert len(links) == len({tuple(sorted(names)) for names in links}) == 3


def test_a_comparison_by_hand() -> None:
    result = compare(
        {
            SEARCHED: np.array([35.0, 35.2]),
            "random0": np.array([34.8, 35.0]),
            "random1": np.array([35.1, 35.3]),
            "random2": np.array([34.4, 34.5]),
            HANDMADE: np.array([34.9, 35.3]),
        }
    )
    # Random means by seed: (34.8 + 35.1 + 34.4) / 3 = 34.7666..., (35 + 35.3 + 34.5) / 3 = 34.9333...
    assert result["minus_random"]["mean"] == pytest.approx((35 - 104.3 / 3 + 35.2 - 104.8 / 3) / 2)
    assert result["minus_random"]["sd"] == pytest.approx((0.2 - 0.5 / 3) / 2**0.5)
    assert result["relative_improvement"] == pytest.approx(100 * (35.1 - 209.1 / 6) / (209.1 / 6))
    assert (result["rank"], result["of"], result["best"]) == (2, 4, "random1")
    assert result["minus_best"]["mean"] == pytest.approx(-0.1) and result["minus_best"]["sd"] == pytest.approx(0, abs=1e-9)
    assert result["minus_handmade"]["mean"] == pytest.approx(0.0) and result["minus_handmade"]["sd"] == pytest.approx(0.02**0.5)


def test_the_interval_of_pairs() -> None:
    """Student's t of 2 degrees of freedom at 97.5 % is 4.302653, as printed in tables."""
    result = paired(np.array([0.1, 0.2, 0.3]))
    assert result == pytest.approx(
        {"mean": 0.2, "sd": 0.1, "low": 0.2 - 0.4302653 / 3**0.5, "high": 0.2 + 0.4302653 / 3**0.5, "pairs": 3}
    )
    assert math.isnan(paired(np.array([0.1]))["low"]) and paired(np.array([0.1]))["mean"] == 0.1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("scale: 4", "scale is 4, and 2 in the search"),
        ("network_g: DLSR", "network_g.type is DLSR, and IMDN in the search"),
        ("datasets: {val: null}", "it has no validation set"),
        ("path: {pretrain_network_g: x.safetensors}", "all start from scratch"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(words: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(f"_base_: {TINY_TRAINING}\n{words}\n")
    with pytest.raises(UserError, match=text):
        read_recipe(str(tmp_path / "train.yml"), load_options(search_options, TINY_SEARCH), "IMDN")


def test_a_wrong_option_of_the_training_is_seen_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(f"_base_: {TINY_TRAINING}\ndatasets: {{val: {{type: folder, dataroot_gt: gone}}}}\n")
    words = ("--training", tmp_path / "train.yml", "--force_yml", f"path:experiments_root={tmp_path / 'runs'}")
    assert "gone" in run("search", "-opt", TINY_SEARCH, "--against-random", "2", *words, code=1)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("words", [["--against-random", "2"], ["--training", "x.yml"], ["--training_seeds", "0-1"]])
def test_options_that_need_each_other(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("search", "-opt", TINY_SEARCH, *words)


def pretend(options: Any, *_: Any) -> tuple[Path, int]:
    """A finished training of a PSNR that depends on the network and the seed."""
    folder = Path(options.path.experiments_root) / options.name
    folder.mkdir(parents=True)
    (folder / OPTIONS).write_text(dump_options(options))
    (folder / CHECKPOINT).touch()
    (folder / PROVENANCE).write_text('[{"processes": 1, "threads": 1}]')
    psnr = 30 + len(options.name) / 10 + 0.01 * options.manual_seed
    append_history(folder, {"iteration": options.train.total_iter, "val": {"chelsea": {"psnr": psnr, "ssim": 0.9}}})
    return folder, 0


def pretended_search(options: Any, *_: Any) -> tuple[Path, int]:
    folder = Path(options.path.experiments_root) / options.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "genotype.json").write_text(json.dumps(picks("conv_3x3", "dsconv_3x3", "conv_3x3", "conv_3x3").to_json()))
    return folder, 0


def test_a_stopped_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time trains what the first has not, and the third nothing; a signal's exit code is that of the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(against_random, "run_search", pretended_search)
    monkeypatch.setattr(against_random, "network_costs", lambda space, *_: network_costs(space, {"params": math.inf}))
    trained: list[str] = []

    def training(options: Any, *rest: Any) -> tuple[Path, int]:
        if len(trained) == 4:
            return Path(), 143
        trained.append(options.name)
        assert (options.scale, options.network_g.nf, options.network_g.num_blocks) == (2, 16, 1)
        return pretend(options)

    monkeypatch.setattr(against_random, "run_training", training)
    command = ("-opt", TINY_SEARCH, "--against-random", "1", "--training", TINY_TRAINING, "--training_seeds", "3,5")
    run("search", *command, code=143)
    assert trained == [
        "tiny-tiny_train-searched_seed3",
        "tiny-tiny_train-random0_seed3",
        "tiny-tiny_train-handmade_seed3",
        "tiny-tiny_train-searched_seed5",
    ]
    trained.insert(0, "no longer four")
    printed = run("search", *command)
    assert (
        trained[5:] == ["tiny-tiny_train-random0_seed5", "tiny-tiny_train-handmade_seed5"]
        and "training 6 of 6: tiny-tiny_train-handmade_seed5; about" in printed
    )
    run("search", *command)
    assert len(trained) == 7
    content = json.loads((tmp_path / "analyses" / "tiny-against_random" / "comparison.json").read_text())
    names = ("tiny-tiny_train-searched_seed", "tiny-tiny_train-random0_seed", "tiny-tiny_train-handmade_seed")
    for network, name in zip(content["networks"], names, strict=True):
        assert network["psnr"]["chelsea"] == pytest.approx([30.1 + len(name) / 10 + 0.01 * seed for seed in (3, 5)])
    assert content["sets"]["chelsea"]["minus_random"]["mean"] == pytest.approx((len(names[0]) - len(names[1])) / 10)
    Path("longer.yml").write_text(f"_base_: {TINY_TRAINING}\ntrain: {{total_iter: 13}}\n")
    assert "train.total_iter: 12 -> 13" in run("search", *command[:-3], "longer.yml", *command[-2:], code=1)
    assert len(trained) == 7


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.yml").write_text(f"_base_: {TINY_TRAINING}\ntrain: {{total_iter: 2}}\nval: {{val_freq: 1}}\n")
    run("search", "-opt", TINY_SEARCH, "--against-random", "2", "--training", "train.yml", "--training_seeds", "3,5")
    folder = tmp_path / "analyses" / "tiny-against_random"
    assert {file.name for file in folder.iterdir()} == {f"comparison.{end}" for end in ("json", "md", "png")} | {"trainings.csv"}
    content = json.loads((folder / "comparison.json").read_text())
    rows = list(csv.DictReader((folder / "trainings.csv").open()))
    assert len(rows) == 8 and {row["seed"] for row in rows} == {"3", "5"}
    for network in content["networks"]:
        runs = [Path("experiments") / f"tiny-tiny_train-{network['network']}_seed{seed}" for seed in (3, 5)]
        assert network["psnr"]["chelsea"] == [read_history(path)[-1]["val"]["chelsea"]["psnr"] for path in runs]
        assert load_structure(runs[0]).genotype == load_structure(runs[1]).genotype
        assert count_params(load_structure(runs[0])) == network["params"]
    genotype = json.loads(Path("experiments/tiny/genotype.json").read_text())["genotype"]
    assert load_structure(Path("experiments/tiny-tiny_train-searched_seed3")).genotype.to_json()["genotype"] == genotype
