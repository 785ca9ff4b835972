"""What every registered search space promises (sr_nas.contracts.SearchSpace), against its own derived networks."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import nn

from sr_nas.complexity.costs import cost_table, measure
from sr_nas.contracts import Latency, Place
from sr_nas.genotype import WIDTH, Genotype, genotype_from
from sr_nas.registry import COSTS, NETWORKS, SPACES
from sr_nas.search.alpha import softmax
from sr_nas.search.objective import expected_cost, normalised_cost

SMALL: dict[str, dict[str, Any]] = {
    "IMDN": {"nf": 16, "num_blocks": 2},
    "DLSR": {"nf": 16, "num_cells": 5},
    "PLAIN": {"nf": 16, "num_blocks": 3},
    "PLAIN of three widths": {"nf": [16, 8, 24], "num_blocks": 2},
    "PLAIN of equal blocks": {"nf": 16, "num_blocks": 3, "shared": True, "attentions": ["none", "spab", "pa", "esa"]},
}


def small(name: str, scale: int = 2, **settings: Any) -> Any:
    return SPACES.get(name.split(" ")[0])(scale=scale, **(SMALL[name] | settings))


def random_genotype(space: Any, seed: int) -> Genotype:
    source = random.Random(seed)
    picked = {label: source.sample(choice.candidates, choice.picks) for label, choice in space.choices().items()}
    return genotype_from(picked, space.arch, space.choices())


def multi_hot(space: Any, genotype: Genotype) -> dict[str, torch.Tensor]:
    """1 for everything that the genotype keeps, 0 for the rest."""
    return {
        label: torch.tensor([float(name in genotype[label]) for name in choice.candidates], dtype=torch.float64)
        for label, choice in space.choices().items()
    }


def latency(space: Any) -> Latency:
    """A table of a device on which candidates get slower by their place in the list, more so under later labels."""
    table = {
        label: {name: (1.0 + at) * (2 + index) for index, name in enumerate(choice.candidates)}
        for at, (label, choice) in enumerate(space.choices().items())
        if choice.of == "operations"
    }
    if WIDTH not in space.choices():
        return Latency(3.0, table)
    widths = {width: 5.0 + int(width) for width in space.choices()[WIDTH].candidates}
    scaled = {
        label: {w: {name: ms * each for name, ms in row.items()} for w, each in widths.items()} for label, row in table.items()
    }
    return Latency(3.0, {WIDTH: widths} | scaled)


def test_every_space_is_here() -> None:
    assert {name.split(" ")[0] for name in SMALL} == set(SPACES.names())


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("mask", "execution"), [(False, "fused"), (True, "fused"), (True, "plain")])
def test_weights_of_1_and_0_give_the_derived_network(name: str, seed: int, training: bool, mask: bool, execution: str) -> None:
    torch.manual_seed(seed)
    space = small(name, execution=execution, checkpointing=seed == 1).double().train(training)
    genotype = random_genotype(space, seed)
    derived = space.derive(genotype).double().train(training)
    inherited = space.inherited(genotype)
    assert set(inherited) == set(derived.state_dict())
    derived.load_state_dict(inherited)
    x = torch.rand(2, 3, 17, 16, dtype=torch.float64)
    weights = {label: weight.bool() if mask else weight for label, weight in multi_hot(space, genotype).items()}
    y = space(x, weights)
    torch.testing.assert_close(y, derived(x), rtol=0, atol=1e-10)
    y.sum().backward()
    ran, trainable = set(), set()
    for own, parameter in space.named_parameters():
        if "candidates." in own:
            trainable.add(candidate := own.split("candidates.")[1].split(".")[0])
            ran |= {candidate} if parameter.grad is not None else set()
    assert not mask or ran == {genotype[label][0] for label in space.labels} & trainable


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scales(name: str, scale: int) -> None:
    space = small(name, scale)
    genotype = random_genotype(space, 0)
    x = torch.rand(1, 3, 16, 17)
    assert space(x, {label: weight.float() for label, weight in multi_hot(space, genotype).items()}).shape[2:] == (
        16 * scale,
        17 * scale,
    )
    assert space.derive(genotype)(x).shape[2:] == (16 * scale, 17 * scale)


def test_decoding_keeps_the_heaviest_in_order(name: str) -> None:
    space = small(name)
    for seed in range(5):
        genotype = random_genotype(space, seed)
        weights = {label: torch.rand(len(choice.candidates)) for label, choice in space.choices().items()}
        for label, names in genotype.picks:
            for place, picked in enumerate(names):
                weights[label][space.choices()[label].candidates.index(picked)] = 3.0 - place
        assert space.decode(weights) == genotype


def test_a_genotype_survives_its_network_and_its_text(name: str) -> None:
    space = small(name)
    genotype = random_genotype(space, 3)
    settings = space.derive(genotype).settings()
    assert NETWORKS.get(genotype.arch)(**settings).genotype == genotype
    text = str(genotype).removeprefix(f"{space.arch}(").removesuffix(")")
    assert genotype_from(text, space.arch, space.choices()) == genotype
    assert space.derive(genotype_from(text, space.arch, space.choices())).genotype == genotype


@pytest.mark.parametrize("partial_channel", [1, 4])
def test_every_weight_and_every_alpha_gets_a_gradient(name: str, partial_channel: int) -> None:
    torch.manual_seed(0)
    several = name == "PLAIN of three widths" and partial_channel == 1
    space = small(name, partial_channel=partial_channel, **({} if several else {"nf": 64}))
    alpha = {label: torch.zeros(len(choice.candidates), requires_grad=True) for label, choice in space.choices().items()}
    weights = {label: softmax(logits) for label, logits in alpha.items()}
    space(torch.rand(1, 3, 16, 16), weights).square().mean().backward()
    for label, logits in alpha.items():
        assert logits.grad is not None and (logits.grad != 0).all(), label
    for parameter_name, parameter in space.named_parameters():
        assert parameter.grad is not None, parameter_name
        # A BatchNorm cancels the bias of the convolution in front of it, so that rounding is all that is left there.
        cancelled = "_bn." in parameter_name and parameter_name.endswith("bias")
        assert cancelled or (parameter.grad != 0).any(), parameter_name


def test_partial_channels_inherit_what_keeps_its_shape(name: str) -> None:
    space = small(name, nf=16, partial_channel=4)
    genotype = random_genotype(space, 1)
    inherited = space.inherited(genotype)
    derived = space.derive(genotype)
    left = derived.load_state_dict(inherited, strict=False)
    assert not left.unexpected_keys and left.missing_keys and inherited


# flops is macs_lr; shallowness, of candidates alone, does not add up over a network.
ADD_UP = [cost for cost in COSTS.names() if cost not in ("flops", "shallowness")]


@pytest.mark.long
@pytest.mark.parametrize("cost", ADD_UP)
def test_cost_of_one_hot_weights_is_the_difference_of_derived_networks(name: str, cost: str) -> None:
    space = small(name)
    table = cost_table(space, cost, latency(space))

    def both(seed: int) -> tuple[float, float]:
        genotype = random_genotype(space, seed)
        whole = measure(cost, space.derive(genotype), Place(scale=2, latency=latency(space)))
        return expected_cost(multi_hot(space, genotype), table).item(), whole

    expected, measured = both(0)
    other_expected, other_measured = both(1)
    assert other_expected != expected
    assert other_expected - expected == pytest.approx(other_measured - measured, rel=1e-6)


@pytest.mark.parametrize("cost", ADD_UP)
def test_a_cost_gives_alpha_a_gradient_towards_the_cheap(name: str, cost: str) -> None:
    space = small(name)
    if name == "PLAIN of three widths":
        return  # see test_plain_space.py
    table = {label: costs.float() for label, costs in cost_table(space, cost, latency(space)).items()}
    assert set(table) == {label for label, choice in space.choices().items() if choice.of == "operations"}
    alpha = {label: torch.zeros(len(costs), requires_grad=True) for label, costs in table.items()}
    normalised_cost({label: softmax(logits) for label, logits in alpha.items()}, table).backward()
    for label, logits in alpha.items():
        assert logits.grad is not None and (logits.grad != 0).any()
        # d/d alpha_i = beta_i (c_i - sum beta c) / sum c, divided by the number of choices
        costs = table[label]
        expected = (costs - costs.mean()) / len(costs) / costs.sum() / len(table)
        torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partial_channel": 5}, "partial_channel 5 must divide"),
        ({"candidates": ["FIRST", "conv_9x9"]}, "unknown .* candidate 'conv_9x9'"),
        ({"candidates": ["FIRST"]}, "two or more"),
        ({"candidates": ["FIRST", "FIRST"]}, "two or more"),
    ],
)
def test_impossible_spaces_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    first = small(name).candidates[0]
    named = {key: [first if own == "FIRST" else own for own in value] for key, value in settings.items() if key == "candidates"}
    with pytest.raises(ValueError, match=words):
        small(name, **(settings | {"nf": 16} | named))


def test_a_further_operation_changes_no_default_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = small(name).registry
    before, first = small(name).choices(), small(name).candidates[0]
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    registry.register("conv_9x9")(lambda read, written, *_, **__: nn.Conv2d(read, written, 9, padding=4))
    assert small(name).choices() == before
    assert small(name, candidates=[first, "conv_9x9"]).candidates == (first, "conv_9x9")


@pytest.mark.parametrize(("name", "size"), [("IMDN", 12**4), ("DLSR", 9**3 * 3 * 6 * 10), ("PLAIN", 3 * 24**6)])
def test_size_of_the_whole_space(name: str, size: int) -> None:
    choices = SPACES.get(name)(scale=2).choices().values()
    assert math.prod(math.comb(len(choice.candidates), choice.picks) for choice in choices) == size
