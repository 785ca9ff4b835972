from __future__ import annotations

import itertools
import random

import pytest
import torch

from sr_nas.complexity.macs import count_macs
from sr_nas.complexity.table import cost_table
from sr_nas.genotype import genotype_from
from sr_nas.networks.imdn import IMDN
from sr_nas.search.cost import expected_cost
from sr_nas.spaces.imdn import IMDNSpace


def one_hot(space: IMDNSpace, names: list[str]) -> dict[str, torch.Tensor]:
    return {
        label: torch.tensor([float(candidate == name) for candidate in choice.candidates], dtype=torch.float64)
        for (label, choice), name in zip(space.choices().items(), names, strict=True)
    }


def random_names(space: IMDNSpace, seed: int) -> list[str]:
    return random.Random(seed).choices(space.candidates, k=4)


def test_size_of_the_space() -> None:
    choices = IMDNSpace(nf=16, num_blocks=1).choices()
    assert list(choices) == ["conv1", "conv2", "conv3", "conv4"]
    assert len(list(itertools.product(*(choice.candidates for choice in choices.values())))) == 20_736


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("training", [True, False])
def test_one_hot_weights_give_the_derived_network(seed: int, training: bool) -> None:
    torch.manual_seed(seed)
    space = IMDNSpace(2, nf=16, num_blocks=2).double().train(training)
    names = random_names(space, seed)
    genotype = space.decode(one_hot(space, names))
    assert genotype.names == names
    derived = space.derive(genotype).double().train(training)
    inherited = space.inherited(genotype)
    assert set(inherited) == set(derived.state_dict())
    derived.load_state_dict(inherited)
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(space(x, one_hot(space, names)), derived(x), rtol=0, atol=1e-10)


def test_partial_channel_inherits_what_keeps_its_shape() -> None:
    space = IMDNSpace(2, nf=16, num_blocks=1, partial_channel=4)
    genotype = genotype_from("conv_3x3,dsconv_3x3,conv_5x5_bn,conv_3x3", "IMDN", IMDN.choices())
    inherited = space.inherited(genotype)
    assert "head.weight" in inherited and "blocks.0.fuse.weight" in inherited
    assert "blocks.0.convs.0.weight" not in inherited
    derived = space.derive(genotype)
    assert not derived.load_state_dict(inherited, strict=False).unexpected_keys


@pytest.mark.parametrize("partial_channel", [1, 4])
def test_every_weight_and_every_alpha_gets_a_gradient(partial_channel: int) -> None:
    torch.manual_seed(0)
    space = IMDNSpace(2, nf=64, num_blocks=1, partial_channel=partial_channel)
    weights = {label: torch.full((12,), 1 / 12, requires_grad=True) for label in space.choices()}
    space(torch.rand(1, 3, 8, 8), weights).square().mean().backward()
    for label, weight in weights.items():
        assert weight.grad is not None and (weight.grad != 0).all(), label
    for name, parameter in space.named_parameters():
        assert parameter.grad is not None, name
        # A BatchNorm cancels the bias of the convolution in front of it, so that rounding is all that is left there.
        cancelled = "_bn." in name and name.endswith("bias")
        assert cancelled or (parameter.grad != 0).any(), name


def test_the_same_alpha_serves_all_blocks() -> None:
    torch.manual_seed(0)
    space = IMDNSpace(2, nf=16, num_blocks=3).double()
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    names = ["conv_3x3", "dsconv_5x5", "dil_dsconv_3x3", "conv_5x5"]
    derived = space.derive(space.decode(one_hot(space, names))).double()
    assert [type(block.convs[1]).__name__ for block in derived.blocks] == ["Sequential"] * 3
    derived.load_state_dict(space.inherited(derived.genotype))
    torch.testing.assert_close(space(x, one_hot(space, names)), derived(x), rtol=0, atol=1e-10)


def test_cost_of_one_hot_weights_is_the_difference_of_derived_networks() -> None:
    space = IMDNSpace(4)
    table = cost_table(space, "flops")
    pixels = 1280 * 720

    def macs(names: list[str]) -> float:
        return count_macs(space.derive(space.decode(one_hot(space, names))))[""].at(pixels)

    def expected(names: list[str]) -> float:
        return expected_cost(one_hot(space, names), {label: costs.double() for label, costs in table.items()}).item()

    published = ["conv_3x3"] * 4
    for seed in range(3):
        names = random_names(space, seed)
        assert expected(names) - expected(published) == pytest.approx(macs(names) - macs(published), rel=1e-6, abs=1e5)


def test_costs_by_hand() -> None:
    """conv_3x3 64 -> 64 at 1280x720: 64 * 64 * 9 multiply-adds per pixel; a depthwise-separable one 64 * 9 + 64 * 64."""
    space = IMDNSpace(4)
    names, pixels = list(space.candidates), 1280 * 720
    table = cost_table(space, "flops")
    assert table["conv1"][names.index("conv_3x3")].item() == pytest.approx(6 * 64 * 64 * 9 * pixels)
    assert table["conv1"][names.index("dil_dsconv_3x3")].item() == pytest.approx(6 * (64 * 9 + 64 * 64) * pixels)
    assert table["conv4"][names.index("conv_5x5")].item() == pytest.approx(6 * 48 * 16 * 25 * pixels)


def test_the_cost_table_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sr_nas.complexity import costs

    space = IMDNSpace(2, nf=20, num_blocks=1)
    first = cost_table(space, "flops")
    monkeypatch.setattr(costs, "count_macs", lambda *_: pytest.fail("measured again"))
    second = cost_table(space, "flops")
    assert all(torch.equal(first[label], second[label]) for label in first)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nf": 64, "partial_channel": 3}, "must divide nf/4 = 16"),
        ({"candidates": ["conv_3x3", "conv_7x7"]}, "'conv_7x7' is not a candidate"),
        ({"candidates": ["conv_3x3"]}, "two or more"),
    ],
)
def test_impossible_spaces_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IMDNSpace(2, **settings)  # type: ignore[arg-type]
