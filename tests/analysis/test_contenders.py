"""A search beside random networks and the hand-made one: who is compared, and what is computed."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_nas.analysis.contenders import HANDMADE, SEARCHED, check_recipe, compare, hand_made, line_up, paired, read_contenders
from sr_nas.complexity.costs import count_params
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.networks.imdn import IMDN, LABELS
from sr_nas.options.load import dump_options, load_options
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.task import find_task, network_costs, search_options, training_options
from tests.conftest import REPOSITORY
from tests.jobs.processes import TINY_SEARCH, TINY_TRAINING

CANDIDATES = ["conv_3x3", "dsconv_3x3", "dil_dsconv_5x5_bn"]
SR = find_task("super-resolution")


def picks(*names: str) -> Genotype:
    return Genotype("IMDN", tuple((label, (name,)) for label, name in zip(LABELS, names, strict=True)))


def test_networks_of_a_search_of_classification(tmp_path: Path) -> None:
    """They have parameters, and no multiply-adds of an image."""
    folder = REPOSITORY / "options" / "nasbench201"
    search, recipe = (
        load_options(model, folder / f"{name}.yml", check_files=False)
        for model, name in ((search_options, "sa"), (training_options, "train"))
    )
    names = ("nor_conv_3x3", "skip_connect", "none", "none", "none", "nor_conv_1x1")
    labels = [f"{node}<-{source}" for node in (1, 2, 3) for source in range(node)]
    genotype = {"arch": "NASBench201", "genotype": dict(zip(labels, names, strict=True))}
    (tmp_path / "options.yml").write_text(dump_options(search))
    (tmp_path / "genotype.json").write_text(json.dumps(genotype))
    (tmp_path / "front.json").write_text(json.dumps({"cost": "params", "networks": []}))
    contenders, notes = read_contenders(tmp_path, recipe, 9, 2)
    assert [each.name for each in contenders] == [SEARCHED, "random0", "random1"] and "hand-made network: none" in notes[1]
    assert contenders[0].genotype == Genotype.from_json(genotype)
    assert all(abs(each.cost / contenders[0].cost - 1) <= 0.05 for each in contenders)


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
    contenders, notes = line_up(SR, space, [searched], costs, count, seed)
    assert [each.name for each in contenders] == [SEARCHED, *(f"random{k}" for k in range(len(contenders) - 2)), HANDMADE]
    drawn = [each.genotype for each in contenders[1:-1]]
    assert len(set(drawn)) == len(drawn) == min(count, len(band)) and set(drawn) <= band and 2 < len(band) < 60
    assert ("that is all of them, and 100 were asked for" in notes[0]) == (count > len(band))
    for each in contenders:
        assert each.cost == sizes.get(each.genotype)
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


def test_no_network_is_made_by_hand_where_none_is_published() -> None:
    space = DLSRSpace(2, nf=8, num_cells=4, candidates=["conv_1x1", "sep_conv_3x3"])
    costs = network_costs(space, {"params": math.inf})
    searched = space.decode({label: torch.linspace(1, 2, len(choice.candidates)) for label, choice in space.choices().items()})
    contenders, notes = line_up(SR, space, [searched], costs, 4, 0)
    assert contenders[-1].name != HANDMADE and "hand-made network: none, as DLSR" in notes[1]
    # The links cost nothing: they vary within the band, and no network is the searched one with its two inputs turned round.
    assert all(each.cost == contenders[0].cost for each in contenders)
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
        ("path: {pretrain_network_g: x.safetensors}", "all start from scratch"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(words: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "train.yml").write_text(f"_base_: {TINY_TRAINING}\n{words}\n")
    recipe = load_options(training_options, tmp_path / "train.yml", check_files=False)
    with pytest.raises(UserError, match=text):
        check_recipe(recipe, load_options(search_options, TINY_SEARCH), "IMDN")


def test_random_networks_lie_between_the_costs_of_several() -> None:
    space = IMDNSpace(2, nf=16, num_blocks=1, candidates=CANDIDATES)
    costs = network_costs(space, {"params": math.inf})
    searched = [picks(*["conv_3x3"] * 4), picks(*["dsconv_3x3"] * 4)]
    contenders, _ = line_up(SR, space, searched, costs, 60, 0)
    assert [each.name for each in contenders[:3]] == [SEARCHED, "front1", "random0"]
    drawn = [each.cost for each in contenders if each.name.startswith("random")]
    ends = [each.cost for each in contenders[:2]]
    assert min(ends) * 0.95 <= min(drawn) < sum(ends) / 2 < max(drawn) <= max(ends) * 1.05 and len(drawn) == 60
    assert line_up(SR, space, searched, costs, None, 0) == (contenders[:2], [])
