"""Budgets: exact decoding against enumeration, and multipliers that lead alpha to networks that use their budget."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_nas.complexity.costs import complexity, measure
from sr_nas.contracts import Latency, Place
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.budget import USED, Band, Cost, Multipliers, _draw_picks, check_limits, decode, draw, front
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.task import network_costs
from tests.search.toy import ToySpace

GIGA = 1e9


@pytest.fixture(scope="module")
def imdn() -> IMDNSpace:
    return IMDNSpace(2, 32, 4)


@pytest.fixture(scope="module")
def macs(imdn: IMDNSpace) -> Cost:
    return network_cost(imdn, "macs_hr")


@pytest.fixture(scope="module")
def parameters(imdn: IMDNSpace) -> Cost:
    return network_cost(imdn, "params")


def network_cost(space: Any, name: str, latency: Latency | None = None) -> Cost:
    return network_costs(space, {name: math.inf}, latency)[name]


def limited(cost: Cost, limit: float) -> Cost:
    return Cost(cost.fixed, cost.table, limit)


def random_weights(space: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        label: torch.randn(len(choice.candidates), generator=generator).mul(2).softmax(0)
        for label, choice in space.choices().items()
    }


def brute_force(space: Any, weights: dict[str, Tensor], costs: list[Cost]) -> tuple[float, tuple[int, ...]]:
    """Largest sum of log beta within all limits, over all combinations of the labels that cost something."""
    labels = list(costs[0].table)
    beta = [weights[label].double().log().numpy() for label in labels]
    scores = sum(np.ix_(*beta), np.zeros(()))
    totals = [cost.fixed + sum(np.ix_(*(cost.table[label].numpy() for label in labels)), np.zeros(())) for cost in costs]
    within = np.logical_and.reduce([total <= cost.limit for total, cost in zip(totals, costs, strict=True)])
    best = int(np.where(within, scores, -np.inf).argmax())
    return float(scores.ravel()[best]), tuple(int(i) for i in np.unravel_index(best, scores.shape))


def score(space: Any, weights: dict[str, Tensor], genotype: Genotype, labels: list[str]) -> float:
    choices = space.choices()
    return sum(math.log(float(weights[label][choices[label].candidates.index(genotype[label][0])].double())) for label in labels)


def check_draws(picks: Any, band: Any, chances: list[Any]) -> None:
    """Fail unless draws, ``[draws, labels]``, are networks of a band, each as often as the product of its chances says."""
    counts = np.zeros([len(own) for own in chances])
    np.add.at(counts, tuple(picks.T), 1)
    expected = math.prod(own[column] for own, column in zip(chances, band.T, strict=True))
    expected *= len(picks) / expected.sum()
    assert counts[tuple(band.T)].sum() == len(picks) > 20 * len(band)
    chi_square, freedom = ((counts[tuple(band.T)] - expected) ** 2 / expected).sum(), len(band) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


@pytest.mark.long
@pytest.mark.parametrize("cost", ["macs_hr", "macs_lr", "params"])
@pytest.mark.parametrize("scale", [2, 3])
def test_costs_of_whole_networks_are_those_of_complexity(cost: str, scale: int) -> None:
    space = IMDNSpace(scale, 16, 2, ["conv_3x3", "dil_dsconv_5x5_bn", "dsconv_3x3"])
    whole, key = network_cost(space, cost), cost if cost == "params" else f"{cost}_1280x720"
    generator = torch.Generator().manual_seed(scale)
    genotype = space.decode(random_weights(space, generator))
    assert round(whole.of(genotype, space.choices())) == complexity(space.derive(genotype))[key]


def test_latency_is_a_cost_of_the_place(imdn: IMDNSpace) -> None:
    candidates = imdn.choices()["conv1"].candidates
    table = {
        label: {name: 10.0 * number + index for index, name in enumerate(candidates)} for number, label in enumerate(imdn.labels)
    }
    cost = network_cost(imdn, "latency_ms", latency=Latency(7.0, table))
    assert cost.fixed == 7 and (cost.least, cost.most) == (7 + 60, 7 + 60 + 44)
    with pytest.raises(UserError, match=r"latency_ms needs a table of this device"):
        network_cost(imdn, "latency_ms")


@pytest.mark.long
def test_random_logits_never_exceed_a_budget_and_are_decoded_as_by_enumeration(imdn: IMDNSpace, macs: Cost) -> None:
    generator, labels = torch.Generator().manual_seed(0), list(macs.table)
    for number in range(1000):
        cost = limited(macs, macs.least * (1 + 7 * number / 1000))
        weights = random_weights(imdn, generator)
        genotype = decode(imdn, weights, [cost])
        assert cost.of(genotype, imdn.choices()) <= cost.limit
        assert score(imdn, weights, genotype, labels) == pytest.approx(brute_force(imdn, weights, [cost])[0], abs=1e-9)


@pytest.mark.long
def test_several_budgets_and_links_without_a_cost_are_decoded_as_by_enumeration(
    imdn: IMDNSpace, macs: Cost, parameters: Cost
) -> None:
    generator = torch.Generator().manual_seed(1)
    for share in (0.05, 0.2, 0.5):
        costs = [limited(cost, cost.least + share * (cost.most - cost.least)) for cost in (macs, parameters)]
        weights = random_weights(imdn, generator)
        genotype = decode(imdn, weights, costs)
        assert score(imdn, weights, genotype, list(macs.table)) == pytest.approx(brute_force(imdn, weights, costs)[0], abs=1e-9)
    dlsr = DLSRSpace(2, 16, 4)
    cost = network_cost(dlsr, "params")
    cost = limited(cost, (cost.least + cost.most) / 2)
    weights = random_weights(dlsr, generator)
    genotype = decode(dlsr, weights, [cost])
    assert score(dlsr, weights, genotype, list(cost.table)) == pytest.approx(brute_force(dlsr, weights, [cost])[0], abs=1e-9)
    free = dlsr.decode(weights)
    assert all(genotype[label] == free[label] for label in dlsr.choices() if label not in cost.table)


def test_the_front_holds_the_best_network_of_every_budget(imdn: IMDNSpace, macs: Cost) -> None:
    weights = random_weights(imdn, torch.Generator().manual_seed(2))
    networks = front(imdn, weights, [macs])
    assert networks[0].genotype == imdn.decode(weights) and networks[-1].costs[0] == macs.least
    for limit in np.linspace(macs.least, macs.most, 20):
        best = next(network for network in networks if network.costs[0] <= limit)
        assert best.log_beta == pytest.approx(brute_force(imdn, weights, [limited(macs, limit)])[0], abs=1e-9)


def test_a_budget_that_binds_nothing_changes_nothing(imdn: IMDNSpace, macs: Cost) -> None:
    weights, cost = random_weights(imdn, torch.Generator().manual_seed(3)), limited(macs, macs.most)
    assert decode(imdn, weights, [cost]) == imdn.decode(weights)
    alpha = Alpha(imdn.choices())
    for logits in alpha.parameters():
        logits.grad = torch.randn(12)
    before = [copy.deepcopy(logits.grad) for logits in alpha.parameters()]
    Multipliers({"macs_hr": cost}).add_gradient(alpha, softmax)
    assert all(torch.equal(grad, logits.grad) for grad, logits in zip(before, alpha.parameters(), strict=True))  # type: ignore[arg-type]


def test_a_budget_below_the_cheapest_network_names_it(imdn: IMDNSpace, macs: Cost, parameters: Cost) -> None:
    with pytest.raises(UserError, match=r"budget\.macs_hr is 5G, .* has 8\.434G: IMDN\((dsconv_3x3|dil_dsconv_3x3), ") as info:
        check_limits(imdn, {"macs_hr": limited(macs, 5e9)})
    assert "_bn" not in str(info.value)
    # Each can be met, but not both: fewest parameters and fewest multiply-adds are the same network here, so one is shifted.
    shifted = Cost(0.0, {label: -costs for label, costs in macs.table.items()}, -0.9 * (macs.most - macs.fixed))
    with pytest.raises(UserError, match="no network of IMDN is within all of macs_hr, shifted together"):
        check_limits(imdn, {"macs_hr": limited(macs, 1.1 * macs.least), "shifted": shifted})


def test_a_budget_of_just_the_cheapest_network_gives_it(imdn: IMDNSpace, macs: Cost) -> None:
    cost, choices = limited(macs, macs.least), imdn.choices()
    check_limits(imdn, {"macs_hr": cost})
    log_beta = {label: weight.double().log() for label, weight in random_weights(imdn, torch.Generator().manual_seed(5)).items()}
    picks, _ = Band(cost).compare(log_beta, torch.tensor(True))
    inside, outside = (macs.fixed + sum(macs.table[label][pair[side]] for label, pair in picks.items()) for side in (0, 1))
    assert inside == macs.least < outside
    weights = random_weights(imdn, torch.Generator().manual_seed(6))
    assert cost.of(decode(imdn, weights, [cost]), choices) == macs.least


def test_the_band_is_told_apart_as_by_enumeration(imdn: IMDNSpace, macs: Cost) -> None:
    labels = list(macs.table)
    totals = macs.fixed + sum(np.ix_(*(macs.table[label].numpy() for label in labels)), np.zeros(()))
    generator = torch.Generator().manual_seed(4)
    for limit in (9e9, 12e9, 20e9, 60e9):
        band = Band(limited(macs, limit))
        lowest = min(USED * limit, totals[totals <= limit].max())
        log_beta = {label: weight.double().log() for label, weight in random_weights(imdn, generator).items()}
        scores = sum(np.ix_(*(log_beta[label].numpy() for label in labels)), np.zeros(()))
        picks, lead = band.compare(log_beta, torch.tensor(True))
        place, other = zip(*(picks[label].tolist() for label in labels), strict=True)
        slack = len(labels) * (limit - macs.least) / 1000  # of rounding costs up
        assert lowest - slack <= totals[place] <= limit
        surely = (totals >= lowest + slack) & (totals <= limit - slack)
        assert not surely.any() or scores[place] >= scores[surely].max()
        assert float(lead) == pytest.approx(scores[other] - scores[place], abs=1e-12)
        assert not (surely[other])


@pytest.mark.parametrize("limit", [9e9, 11e9, 30e9])
def test_draws_are_of_the_band_and_as_likely_as_their_weights(imdn: IMDNSpace, macs: Cost, limit: float) -> None:
    labels, cost, generator = list(macs.table), limited(macs, limit), np.random.default_rng(0)
    totals = macs.fixed + sum(np.ix_(*(macs.table[label].numpy() for label in labels)), np.zeros(()))
    band = np.argwhere((totals >= USED * limit) & (totals <= limit))
    networks = draw(imdn, [cost], len(band) + 1 if limit == 9e9 else 1, generator)
    assert len(networks) == (len(band) if limit == 9e9 else 1)
    assert all(USED * limit <= cost.of(network, imdn.choices()) <= limit for network in networks)
    for spread in (0.0, 0.5):
        chances = {label: np.exp(spread * np.random.default_rng(1).normal(size=12)) for label in labels}
        picks = _draw_picks([cost], chances, 40 * len(band), generator, USED, 1.0)
        check_draws(picks, band, [chances[label] for label in labels])


@pytest.mark.long
def test_draws_of_few_networks_are_all_of_the_band_and_those_of_one_uniform() -> None:
    """Of the 8 ways to choose operations, 6 are within both budgets and use one of them; inputs cost nothing."""
    space = DLSRSpace(2, 16, 4, candidates=["conv_1x1", "conv_3x3"])
    params = network_cost(space, "params")
    other = Cost(0.0, {label: torch.tensor([1.0, 0.0], dtype=torch.float64) for label in params.table}, 2.0)
    params = limited(params, params.least + 0.7 * (params.most - params.least))
    networks = draw(space, [params, other], 120, np.random.default_rng(0), low_share=0.6)
    choices = space.choices()
    ways = math.prod(math.comb(len(own.candidates), own.picks) for label, own in choices.items() if label not in params.table)
    shares = [[cost.of(network, choices) / cost.limit for cost in (params, other)] for network in networks]
    assert all(max(pair) <= 1 and max(pair) >= 0.6 for pair in shares)
    assert len({str(network) for network in networks}) == len(networks) == 6 * ways
    once = [str(draw(space, [params], 1, np.random.default_rng(seed), 0.0)[0]) for seed in range(20)]
    assert len(set(once)) > 10
    assert draw(space, [limited(params, params.least / 2)], 5, np.random.default_rng(0)) == []
    assert len(draw(space, [], 150, np.random.default_rng(0))) == 8 * ways
    likes = {label: torch.full((len(choice.candidates),), 1e-9) for label, choice in choices.items()}
    for label, choice in choices.items():
        likes[label][-choice.picks :] = 1
    (network,) = draw(space, [params], 1, np.random.default_rng(0), 0.0, 9.9, likes)
    assert all(set(network[label]) == set(choice.candidates[-choice.picks :]) for label, choice in choices.items())


def test_the_gradient_is_that_of_the_augmented_lagrangian_at_the_task_s_length() -> None:
    space = ToySpace()
    table = {"one": torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64), "two": torch.tensor([0.0, 2.0], dtype=torch.float64)}
    alpha = Alpha(space.choices(), "constant", 0.0)
    with torch.no_grad():
        alpha.logits["one"] += torch.tensor([0.0, 0.2, 0.5])
        alpha.logits["two"] += torch.tensor([0.0, 0.3])
    multipliers = Multipliers({"macs": Cost(1.0, table, 7.0)})  # argmax 12; within the band 6.44..7 only (middle, middle)
    task = {"one": torch.tensor([3.0, -1.0, 1.0]), "two": torch.tensor([0.5, -0.5])}
    for label, logits in alpha.by_label().items():
        logits.grad = task[label] + 10.0  # a shift common to a choice, as SA's regulariser adds, does not count
    multipliers.add_gradient(alpha, softmax)
    # lead of (large, middle) over (middle, middle) is 0.3; h = 0.3 + 0.1, force 0 + 2 h
    length = math.sqrt(sum(float((grad - grad.mean()).square().sum()) for grad in task.values()))
    pull = 2 * 0.4 * length / math.sqrt(2)
    torch.testing.assert_close(alpha.logits["one"].grad, task["one"] + 10 + torch.tensor([0.0, -pull, pull]))
    torch.testing.assert_close(alpha.logits["two"].grad, task["two"] + 10)
    assert multipliers.values["macs"] == pytest.approx(0.1 * 0.4)
    resumed = Multipliers({"macs": Cost(1.0, table, 7.0)})
    resumed.load_state_dict(multipliers.state_dict())
    assert resumed.state_dict() == multipliers.state_dict()


@pytest.mark.parametrize("giga", [12, *(pytest.param(giga, marks=pytest.mark.long) for giga in (9, 16, 20, 25, 30))])
def test_alpha_is_led_to_a_network_that_uses_its_budget(imdn: IMDNSpace, macs: Cost, giga: int) -> None:
    """A task that prefers the dear or the cheap, with noise ten times its size, in 200 steps of Adam."""
    cost, choices = limited(macs, giga * GIGA), imdn.choices()
    for taste in (-1.0, 1.0):
        generator = torch.Generator().manual_seed(giga)
        alpha = Alpha(choices, generator=generator)
        optimizer = torch.optim.Adam(alpha.parameters(), lr=2e-2, betas=(0.5, 0.999))
        multipliers = Multipliers({"macs_hr": cost})
        likes = {label: taste * torch.linspace(0, 1, 12)[costs.argsort().argsort()] for label, costs in macs.table.items()}
        for _ in range(200):
            for label, logits in alpha.by_label().items():
                logits.grad = -likes[label] * 0.1 + torch.randn(12, generator=generator)
            multipliers.add_gradient(alpha, softmax)
            optimizer.step()
        with torch.no_grad():
            share = cost.of(decode(imdn, alpha.relax(softmax), [cost]), choices) / cost.limit
        assert 0.9 <= share <= 1


def test_a_cost_of_super_resolution_needs_a_scale() -> None:
    with pytest.raises(UserError, match="macs_hr is a cost of networks of super-resolution"):
        measure("macs_hr", torch.nn.Conv2d(3, 3, 1), Place())
    assert measure("macs_hr", torch.nn.Conv2d(3, 3, 1), Place(scale=4)) == 9 * 320 * 180
