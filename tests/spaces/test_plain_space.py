from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sr_nas.complexity.costs import complexity, cost_table, measure
from sr_nas.contracts import Place
from sr_nas.genotype import Genotype, genotype_from
from sr_nas.networks.plain import PLAIN
from sr_nas.options.load import load_options
from sr_nas.options.sections import TrainOptions
from sr_nas.registry import NETWORKS
from sr_nas.search.alpha import softmax
from sr_nas.search.objective import normalised_cost
from sr_nas.spaces.plain import PlainSpace
from sr_nas.task import network_costs


def all_genotypes(space: PlainSpace) -> list[Genotype]:
    choices = space.choices()
    every = itertools.product(*(choice.candidates for choice in choices.values()))
    return [genotype_from(list(names), "PLAIN", choices) for names in every]


def test_costs_by_hand() -> None:
    """At x2, with w channels: head 3 * 9 w, tail 12 * 9 w, a chain of two 2 * 9 w^2, each multiply-adds per pixel."""
    space = PlainSpace(2, nf=[16, 24], num_blocks=2)
    table, pixels = cost_table(space, "flops"), 1280 * 720
    assert list(table) == ["width", "body1", "attention1", "body2", "attention2"]
    assert table["width"].tolist() == [pytest.approx((3 * 9 + 12 * 9) * width * pixels) for width in (16, 24)]
    names = list(space.candidates)
    for row, width in enumerate((16, 24)):
        costs = dict(zip(names, (table["body2"][row] / pixels).tolist(), strict=True))
        square = width * width
        assert costs["conv_3x3_2"] == pytest.approx(2 * 9 * square) and costs["conv_3x3_3"] == pytest.approx(27 * square)
        assert costs["dwconv_5x5"] == pytest.approx(2 * square + 25 * width)
        assert costs["bsconv_3x3_2"] == pytest.approx(2 * square + 18 * width)
        assert costs["pconv_3x3"] == pytest.approx(9 * square / 16 + 2 * square) and costs["skip"] == 0
        gates = dict(zip(space.attentions, (table["attention1"][row] / pixels).tolist(), strict=True))
        assert gates["none"] == gates["spab"] == 0 and gates["pa"] == pytest.approx(square)


@pytest.mark.parametrize(("cost", "step"), [("params", 5), ("macs_hr", 29)])
def test_the_cost_of_every_network_adds_up_at_its_width(cost: str, step: int) -> None:
    space = PlainSpace(2, nf=[8, 12], num_blocks=2, candidates=["conv_3x3_2", "pconv_3x3", "skip"], attentions=["spab", "esa"])
    whole, values = network_costs(space, {cost: 1e12})[cost], []
    for genotype in all_genotypes(space)[::step]:
        counted = measure(cost, space.derive(genotype), Place(scale=2))
        assert whole.of(genotype, space.choices()) == pytest.approx(counted, rel=1e-6)
        values.append(counted)
        one_hot = {
            label: torch.tensor([float(name in genotype[label]) for name in choice.candidates])
            for label, choice in space.choices().items()
        }
        assert whole.expected(one_hot).item() == pytest.approx(counted, rel=1e-5)
    assert len(values) > 2 and whole.least <= min(values) and whole.most >= max(values)


def test_expected_cost_is_a_polynomial_in_beta() -> None:
    """The mean over all networks, each as likely as the product of its betas."""
    space = PlainSpace(2, nf=[8, 12], num_blocks=1, candidates=["conv_3x3_2", "skip"], attentions=["none", "pa"])
    cost, choices = network_costs(space, {"params": 1e12})["params"], space.choices()
    torch.manual_seed(0)
    beta = {label: torch.randn(len(choice.candidates), dtype=torch.float64).softmax(0) for label, choice in choices.items()}
    mean = 0.0
    for genotype in all_genotypes(space):
        chance = 1.0
        for label, (name,) in genotype.picks:
            chance *= beta[label][choices[label].candidates.index(name)].item()
        mean += chance * complexity(space.derive(genotype))["params"]
    assert cost.expected(beta).item() == pytest.approx(mean, rel=1e-9)


def test_a_cost_pulls_the_width_towards_the_narrow_and_bodies_towards_the_cheap() -> None:
    space = PlainSpace(2, nf=[24, 8, 16], num_blocks=2)
    table = {label: costs.float() for label, costs in cost_table(space, "macs_hr").items()}
    alpha = {label: torch.zeros(len(choice.candidates), requires_grad=True) for label, choice in space.choices().items()}
    normalised_cost({label: softmax(logits) for label, logits in alpha.items()}, table).backward()
    for label, logits in alpha.items():
        assert logits.grad is not None
        costs = table[label] if label == "width" else table[label].mean(0)
        assert logits.grad.argsort().tolist() == costs.argsort().tolist() or label.startswith("attention")
        centred = costs - costs.mean()
        assert torch.dot(centred, logits.grad) > 0


def test_a_skipped_block_is_no_module_and_a_gate_of_it_is() -> None:
    network = PLAIN(2, nf=8, num_blocks=3, genotype="skip,spab,skip,pa,conv_3x3_2,none")
    without = PLAIN(2, nf=8, num_blocks=2, genotype="skip,pa,conv_3x3_2,none")
    assert type(network.blocks[0]) is torch.nn.Identity
    assert complexity(network) == complexity(without)
    state = {
        name.replace("blocks.1.", "blocks.0.").replace("blocks.2.", "blocks.1."): own
        for name, own in network.state_dict().items()
    }
    without.load_state_dict(state)
    x = torch.rand(1, 3, 9, 8)
    assert torch.equal(network(x), without(x))


def test_it_begins_near_nearest_neighbour_upscaling() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16)
    nearest = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    assert (PLAIN(2, nf=32)(x) - nearest).abs().mean() < 0.05
    for parameter in (network := PLAIN(2, nf=8)).tail.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(network(x), nearest)


def test_parameter_free_attention_by_hand() -> None:
    torch.manual_seed(0)
    network = PLAIN(2, nf=8, num_blocks=1).double()
    x = torch.rand(1, 8, 7, 7, dtype=torch.float64)
    features = network.blocks[0].body(x)
    torch.testing.assert_close(network.blocks[0](x), x + (x + features) * (1 / (1 + torch.exp(-features)) - 0.5))


def test_a_width_in_the_genotype_decides() -> None:
    blocks = "conv_3x3_2,none"
    assert PLAIN(2, num_blocks=1, genotype=f"24,{blocks}").nf == 24
    assert PLAIN(2, num_blocks=1, genotype={"width": 24, "body1": "conv_3x3_2", "attention1": "none"}).nf == 24
    assert PLAIN(2, nf=40, num_blocks=1, genotype=blocks).nf == 40
    with pytest.raises(ValueError, match="width 24, and nf is 32"):
        PLAIN(2, nf=32, num_blocks=1, genotype=f"24,{blocks}")
    with pytest.raises(ValueError, match=r"PLAIN.width keeps one name of .*; given: 16, 24"):
        PLAIN(2, num_blocks=1, genotype={"width": [16, 24], "body1": "conv_3x3_2", "attention1": "none"})
    with pytest.raises(ValueError, match="a list of names or a mapping of labels to names, not 24"):
        PLAIN(2, num_blocks=1, genotype=24)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'25' is not a candidate"):
        PLAIN(2, num_blocks=1, genotype=f"25,{blocks}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nf": [16, 16]}, "names a width twice"),
        ({"nf": [16, 24], "partial_channel": 2}, "nf must be one number"),
        ({"shared": True, "candidates": ["conv_3x3_2", "skip"]}, "cannot be skip"),
        ({"attentions": ["spab", "pq"]}, "unknown PLAIN attention 'pq'"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PlainSpace(2, **settings)


def test_one_pair_stands_for_all_blocks() -> None:
    pairs = ["conv_3x3_2", "pa"] * 3
    for one in ("conv_3x3_2,pa", ["conv_3x3_2", "pa"]):
        assert PLAIN(2, 16, 3, genotype=one).genotype.names == pairs
    assert PLAIN(2, num_blocks=3, genotype="16,conv_3x3_2,pa").genotype.names == ["16", *pairs]
    assert PLAIN(2, 16, 3, shared=True, genotype="conv_3x3_2,pa").genotype.names == pairs[:2]


def test_a_training_takes_width_and_depth_from_the_folder_of_a_search(tmp_path: Path) -> None:
    space = PlainSpace(2, nf=[8, 12], num_blocks=2)
    derived = space.derive(genotype_from("12,pconv_3x3,pa,skip,none", "PLAIN", space.choices()))
    settings = derived.settings() | {"type": "PLAIN"}
    del settings["scale"], settings["genotype"]
    (tmp_path / "genotype.json").write_text(json.dumps(derived.genotype.to_json() | {"network_g": settings}))
    raw = {"name": "x", "scale": 2, "datasets": {"train": {"type": "sample"}}, "train": {"total_iter": 1}}
    for genotype in (str(tmp_path), str(tmp_path / "genotype.json")):
        file = tmp_path / "train.json"
        file.write_text(json.dumps(raw | {"network_g": {"type": "PLAIN", "genotype": genotype}}))
        section = load_options(TrainOptions, file).network_g
        built = NETWORKS.build(section)(scale=2)
        assert built.settings() == derived.settings()
