"""Budgets where what a candidate costs depends on the width: decoding, front, band, draws and multipliers against enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sr_nas.complexity.costs import count_params
from sr_nas.errors import UserError
from sr_nas.genotype import genotype_from
from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.budget import USED, Band, Cost, Multipliers, _draw_picks, check_limits, decode, decode_picks, draw, front
from sr_nas.spaces.plain import PlainSpace
from sr_nas.task import network_costs
from tests.search.test_budget import check_draws, limited, random_weights, score

Values = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def space() -> PlainSpace:
    candidates = ["conv_3x3_2", "dwconv_5x5", "pconv_3x3", "skip"]
    return PlainSpace(2, nf=[8, 16, 12], num_blocks=2, candidates=candidates, attentions=["none", "pa", "esa"])


@pytest.fixture(scope="module")
def costs(space: PlainSpace) -> dict[str, Cost]:
    return network_costs(space, {"macs_hr": math.inf, "params": math.inf})


@pytest.fixture(scope="module")
def totals(space: PlainSpace, costs: dict[str, Cost]) -> dict[str, Values]:
    """Cost -> that of every network, ``[candidates of each label]``; parameters are counted in the network itself."""
    choices = space.choices()
    sizes = [len(choice.candidates) for choice in choices.values()]
    result = {name: np.zeros(sizes) for name in costs}
    for place in itertools.product(*map(range, sizes)):
        names = [choice.candidates[index] for choice, index in zip(choices.values(), place, strict=True)]
        genotype = genotype_from(names, space.arch, choices)
        result["macs_hr"][place] = costs["macs_hr"].of(genotype, choices)
        with torch.device("meta"):
            result["params"][place] = count_params(space.derive(genotype))
    return result


def scores_of(space: PlainSpace, weights: dict[str, Any]) -> Values:
    beta = [weights[label].double().log().numpy() for label in space.choices()]
    scores: Values = sum(np.ix_(*beta), np.zeros(()))
    return scores


@pytest.mark.long
def test_the_extremes_are_those_of_all_networks(space: PlainSpace, costs: dict[str, Cost], totals: dict[str, Values]) -> None:
    for name, cost in costs.items():
        assert (cost.least, cost.most) == (
            pytest.approx(totals[name].min(), rel=1e-6),
            pytest.approx(totals[name].max(), rel=1e-6),
        )
        for dearest, value in ((False, cost.least), (True, cost.most)):
            picks = cost.extreme(dearest)
            assert cost.of(decode_picks(space, random_weights(space, torch.Generator()), picks), space.choices()) == value


@pytest.mark.long
def test_decoding_is_that_of_enumeration(space: PlainSpace, costs: dict[str, Cost], totals: dict[str, Values]) -> None:
    generator, labels = torch.Generator().manual_seed(0), list(space.choices())
    for number in range(100):
        share = (number + 0.5) / 120
        bounded = [limited(cost, cost.least + share * (cost.most - cost.least)) for cost in costs.values()][: 1 + number % 2]
        weights, names = random_weights(space, generator), list(costs)[: 1 + number % 2]
        within = np.logical_and.reduce([totals[name] <= cost.limit for name, cost in zip(names, bounded, strict=True)])
        genotype = decode(space, weights, bounded)
        assert all(cost.of(genotype, space.choices()) <= cost.limit for cost in bounded)
        best = scores_of(space, weights)[within].max()
        assert score(space, weights, genotype, labels) == pytest.approx(best, abs=1e-9)


def test_the_front_is_of_all_widths(space: PlainSpace, costs: dict[str, Cost], totals: dict[str, Values]) -> None:
    weights = random_weights(space, torch.Generator().manual_seed(2)) | {"width": torch.tensor([0.2, 0.5, 0.3])}
    networks, scores = front(space, weights, [costs["macs_hr"]]), scores_of(space, weights)
    assert len({network.genotype["width"] for network in networks}) > 1
    values = [network.costs[0] for network in networks]
    assert values == sorted(values, reverse=True)
    for network in networks:  # no other is as cheap and better
        assert network.log_beta == pytest.approx(scores[totals["macs_hr"] <= network.costs[0] + 0.5].max(), abs=1e-9)


def test_a_budget_below_the_cheapest_network_is_refused(space: PlainSpace, costs: dict[str, Cost]) -> None:
    cost = costs["params"]
    with pytest.raises(UserError, match=r"the cheapest network has .*: PLAIN\(8, skip, none, skip, none\)"):
        check_limits(space, {"params": limited(cost, cost.least - 1)})
    check_limits(space, {"params": limited(cost, cost.least)})


def test_the_band_is_told_apart_as_by_enumeration(space: PlainSpace, costs: dict[str, Cost], totals: dict[str, Values]) -> None:
    cost, labels, generator = costs["macs_hr"], list(space.choices()), torch.Generator().manual_seed(4)
    for limit in np.linspace(1.5 * cost.least, 0.9 * cost.most, 12):
        band, weights = Band(limited(cost, limit)), random_weights(space, generator)
        picks, lead = band.compare({label: own.double().log() for label, own in weights.items()}, torch.tensor(True))
        place, other = zip(*(picks[label].tolist() for label in labels), strict=True)
        slack, all_scores = len(labels) * (limit - cost.least) / 1000, scores_of(space, weights)
        lowest = min(USED * limit, totals["macs_hr"][totals["macs_hr"] <= limit].max())
        assert lowest - slack <= totals["macs_hr"][place] <= limit
        surely = (totals["macs_hr"] >= lowest + slack) & (totals["macs_hr"] <= limit - slack)
        assert not surely.any() or all_scores[place] >= all_scores[surely].max() - 1e-12
        assert float(lead) == pytest.approx(all_scores[other] - all_scores[place], abs=1e-12) and not surely[other]


def test_draws_are_as_likely_as_their_weights(space: PlainSpace, costs: dict[str, Cost], totals: dict[str, Values]) -> None:
    cost, generator, labels = costs["macs_hr"], np.random.default_rng(0), list(space.choices())
    limit = 0.5 * cost.most
    band = np.argwhere((totals["macs_hr"] >= 0.7 * limit) & (totals["macs_hr"] <= limit))
    assert len({int(row[0]) for row in band}) > 1
    networks = draw(space, [limited(cost, limit)], len(band) + 1, generator, 0.7)
    assert len(networks) == len(band)
    chances = {label: np.exp(0.5 * generator.normal(size=len(choice.candidates))) for label, choice in space.choices().items()}
    picks = _draw_picks([limited(cost, limit)], chances, 60 * len(band), generator, 0.7, 1.0)
    check_draws(picks, band, [chances[label] for label in labels])


@pytest.mark.parametrize("share", [0.15, 0.7])
def test_alpha_is_led_to_a_network_that_uses_its_budget(space: PlainSpace, costs: dict[str, Cost], share: float) -> None:
    cost, choices = costs["macs_hr"], space.choices()
    cost = limited(cost, share * cost.most)
    generator = torch.Generator().manual_seed(0)
    alpha = Alpha(choices, generator=generator)
    optimizer = torch.optim.Adam(alpha.parameters(), lr=2e-2, betas=(0.5, 0.999))
    multipliers = Multipliers({"macs_hr": cost})
    for _ in range(150):
        for logits in alpha.by_label().values():
            logits.grad = 0.1 * torch.randn(len(logits), generator=generator)
        multipliers.add_gradient(alpha, softmax)
        optimizer.step()
    with torch.no_grad():
        used = cost.of(decode(space, alpha.relax(softmax), [cost]), choices) / cost.limit
    assert 0.88 <= used <= 1
