"""The networks of NAS-Bench-201, against the benchmark's own counts and a cell written out by hand."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sr_nas.classification.mixed import mixed_together
from sr_nas.classification.nasbench201 import (
    EDGES,
    NASBENCH201_CANDIDATES,
    NASBench201,
    NASBench201Space,
    architecture_string,
    read_genotype,
)
from sr_nas.complexity.costs import classifier_complexity, cost_table, count_params
from sr_nas.genotype import Genotype, GenotypeError
from sr_nas.ops.mixed import MixedOp

MIXED = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


def test_parameters_are_those_of_the_table(shared: Path) -> None:
    with gzip.open(shared / "data" / "nb201_table.csv.gz", "rt") as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["index"]) in (0, 1, 1835, 5000, 9930, 15624)]
    for row in rows:
        assert count_params(NASBench201(genotype=row["arch"])) == int(row["params_calc_c10"])


def test_complexity_of_the_plain_network() -> None:
    """Every edge a 3x3 convolution: 1,531,546 parameters and 220.12 M multiply-adds, of which the stem takes 0.44 M.

    By hand: an edge costs 9 C^2 H W, which is the same in all three stages.
    """
    edge = 9 * 16 * 16 * 32 * 32
    costs = classifier_complexity(NASBench201())
    assert costs["params"] == 1_531_546
    blocks = sum(
        (9 * c * 2 * c + 9 * 2 * c * 2 * c + c * 2 * c) * side * side for c, side in ((16, 16), (32, 8))
    )  # two residual blocks
    norms = costs["macs_32x32"] - (15 * 6 * edge + blocks + 9 * 3 * 16 * 32 * 32 + 640)
    assert 0 <= norms < 0.03 * costs["macs_32x32"], "fvcore counts BatchNorms and poolings too"


def test_strings_go_both_ways() -> None:
    genotype = read_genotype(MIXED)
    assert architecture_string(genotype) == MIXED
    assert genotype.names == ["nor_conv_3x3", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "none", "nor_conv_3x3"]
    assert read_genotype(genotype.names) == read_genotype(genotype.to_json()) == genotype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv' is not a candidate of NASBench201.1<-0"),
        ("|none~0|+|none~0|none~1|", "is no architecture of NAS-Bench-201"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "is no architecture of NAS-Bench-201"),
        ("|none~0|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "is no architecture of NAS-Bench-201"),
        ("none~0|", "is no architecture of NAS-Bench-201"),
    ],
)
def test_wrong_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(GenotypeError, match=message.replace("|", r"\|")):
        read_genotype(text)


def test_a_cell_by_hand() -> None:
    torch.manual_seed(0)
    network = NASBench201(channels=4, num_cells=1, genotype=MIXED).double().train()
    cell, x = network.stages[0][0], torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def convolved(label: str, y: torch.Tensor, padding: int) -> torch.Tensor:
        z = F.conv2d(y.clamp_min(0), cell.edges[label][1].weight, padding=padding)
        mean, variance = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
        return (z - mean) / (variance + 1e-5).sqrt()

    ones = F.conv2d(torch.ones_like(x[:, :1]), torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
    pooled = F.conv2d(x, torch.ones(4, 1, 3, 3, dtype=torch.float64), padding=1, groups=4) / ones
    first = convolved("1<-0", x, 1)
    second = pooled + convolved("2<-1", first, 0)
    torch.testing.assert_close(cell(x), x + convolved("3<-2", second, 1), rtol=1e-10, atol=1e-10)


NAMES = NASBENCH201_CANDIDATES.names()


def small(**settings: Any) -> NASBench201Space:
    return NASBench201Space(**({"channels": 4, "num_cells": 1} | settings))


def one_hot(genotype: Genotype) -> dict[str, torch.Tensor]:
    return {
        label: torch.tensor([float(name == selected) for name in NAMES], dtype=torch.float64)
        for label, (selected,) in genotype.picks
    }


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_one_hot_weights_give_the_derived_network(affine: bool, execution: str, training: bool, seed: int) -> None:
    torch.manual_seed(seed)
    space = small(affine=affine, execution=execution).double().train(training)
    genotype = read_genotype(random.Random(seed).choices(NAMES, k=6))
    derived = space.derive(genotype).double().train(training)
    missing = derived.load_state_dict(space.inherited(genotype), strict=False).missing_keys
    assert affine is False or not missing
    assert all(name.endswith((".weight", ".bias")) for name in missing), "BatchNorms that the supernet gives no weights"
    x = torch.randn(2, 3, 16, 12, dtype=torch.float64)
    torch.testing.assert_close(space(x, one_hot(genotype)), derived(x), rtol=0, atol=1e-10)
    mask = {label: weight.bool() for label, weight in one_hot(genotype).items()}
    torch.testing.assert_close(space(x, mask), derived(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"affine": True}, {"partial_channel": 2, "edge_normalization": True}], ids=str)
def test_edges_together_equal_edges_apart(settings: dict[str, Any]) -> None:
    """Outputs, gradients of weights, of alpha and of the input, second derivatives, and statistics, in float64."""
    torch.manual_seed(0)
    spaces = [small(**settings, execution=execution).double() for execution in ("plain", "fused")]
    spaces[1].load_state_dict(spaces[0].state_dict())
    x = torch.randn(3, 3, 12, 16, dtype=torch.float64)
    start = {label: torch.rand(len(choice.candidates), dtype=torch.float64) for label, choice in spaces[0].choices().items()}
    results = []
    for space in spaces:
        weights = {label: weight.clone().requires_grad_() for label, weight in start.items()}
        image = x.clone().requires_grad_()
        inputs = [image, *weights.values(), *space.parameters()]
        result = space(image, weights)
        gradients = torch.autograd.grad(result.square().mean(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), inputs, allow_unused=True)
        results.append([result, *gradients, *second, *space.buffers(), space.eval()(x, start)])
    assert len(results[0]) == len(results[1])
    for place, (apart, together) in enumerate(zip(*results, strict=True)):
        assert (apart is None) == (together is None), place
        if apart is not None:
            torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-10)


def test_an_auxiliary_skip_is_more_of_the_skip_connection() -> None:
    torch.manual_seed(0)
    space, x = small(edge_normalization=True).double(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    weights = {label: torch.rand(len(choice.candidates), dtype=torch.float64) for label, choice in space.choices().items()}
    more = {label: weight + 0.3 * torch.eye(len(weight)).double()[1] * ("<-" in label) for label, weight in weights.items()}
    expected = space(x, more)
    space.auxiliary_skip = 0.3
    torch.testing.assert_close(space(x, weights), expected, rtol=0, atol=1e-12)


def test_drop_path_leaves_out_edges_in_training_alone() -> None:
    torch.manual_seed(0)
    space, x = small().double(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    weights = {label: torch.rand(len(choice.candidates), dtype=torch.float64) for label, choice in space.choices().items()}
    nothing = {label: torch.zeros_like(weight) for label, weight in weights.items()}
    space.drop_path = 1 - 1e-12
    torch.testing.assert_close(space(x, weights), small_like(space)(x, nothing), rtol=0, atol=1e-12)
    space.eval()
    dropping = space(x, weights)
    space.drop_path = 0.0
    assert torch.equal(dropping, space(x, weights))


def small_like(space: NASBench201Space) -> NASBench201Space:
    other = small().double()
    other.load_state_dict(space.state_dict())
    return other


def test_a_candidate_of_unknown_form_runs_by_itself() -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    ops = [MixedOp({"twice": lambda *_: Twice(), "skip": lambda *_: torch.nn.Identity()}, 4, 4) for _ in range(2)]
    x, weights = torch.randn(2, 4, 5, 5), [torch.rand(2), torch.rand(2)]
    for together, weight in zip(mixed_together(ops, weights, x), weights, strict=True):
        torch.testing.assert_close(together, (2 * weight[0] + weight[1]) * x)


def test_decoding_keeps_the_heaviest() -> None:
    genotype = read_genotype(random.Random(5).choices(NAMES, k=6))
    assert small().decode({label: torch.rand(5) + 2 * weight for label, weight in one_hot(genotype).items()}) == genotype


@pytest.mark.parametrize("partial_channel", [1, 4])
def test_every_weight_and_every_alpha_gets_a_gradient(partial_channel: int) -> None:
    torch.manual_seed(0)
    space = small(partial_channel=partial_channel)
    weights = {label: torch.full((5,), 0.2, requires_grad=True) for label in EDGES}
    space(torch.randn(2, 3, 16, 16), weights).square().mean().backward()
    for weight in weights.values():
        assert weight.grad is not None
        # "none" adds nothing, whatever its weight.
        assert [value != 0 for value in weight.grad.tolist()] == [name != "none" for name in NAMES]
    assert all(parameter.grad is not None and (parameter.grad != 0).any() for parameter in space.parameters())


def test_edge_normalisation_weighs_edges_and_drops_none() -> None:
    """Partial channels aside, edge weights of 1 change nothing, and half of one halves all of its candidates' weights."""
    torch.manual_seed(0)
    space, x = small(edge_normalization=True).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    weights = {label: torch.rand(len(choice.candidates), dtype=torch.float64) for label, choice in space.choices().items()}
    assert [label for label, choice in space.choices().items() if choice.of == "inputs"] == ["inputs2", "inputs3"]
    plain = small().double().eval()
    plain.load_state_dict(space.state_dict())
    even = weights | {
        "inputs2": torch.ones(2, dtype=torch.float64),
        "inputs3": torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64),
    }
    torch.testing.assert_close(space(x, even), plain(x, weights | {"3<-1": weights["3<-1"] / 2}), rtol=1e-12, atol=1e-12)
    assert space.decode(weights) == plain.decode(weights)


def test_costs_by_hand() -> None:
    """Of an edge's 3x3 convolution, with its BatchNorm: (9 C^2 + 2 C) values a cell, C = 16, 32, 64, five cells each."""
    table = {
        label: dict(zip(NAMES, costs.tolist(), strict=True)) for label, costs in cost_table(NASBench201Space(), "params").items()
    }
    for label in EDGES:
        assert table[label]["nor_conv_3x3"] == 5 * sum(9 * c * c + 2 * c for c in (16, 32, 64))
        assert table[label]["nor_conv_1x1"] == 5 * sum(c * c + 2 * c for c in (16, 32, 64))
        assert table[label]["skip_connect"] == table[label]["none"] == table[label]["avg_pool_3x3"] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partial_channel": 3}, "partial_channel 3 must divide"),
        ({"candidates": ["none", "conv"]}, "unknown NAS-Bench-201 candidate 'conv'"),
        ({"candidates": ["none"]}, "two or more"),
    ],
)
def test_impossible_spaces_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)


def test_a_further_operation_does_not_change_the_default_space(monkeypatch: pytest.MonkeyPatch) -> None:
    before = NASBench201Space(channels=4, num_cells=1).choices()
    monkeypatch.setattr(NASBENCH201_CANDIDATES, "_entries", dict(NASBENCH201_CANDIDATES._entries))
    NASBENCH201_CANDIDATES.register("max_pool_3x3")(lambda read, written, affine=True: torch.nn.MaxPool2d(3, 1, 1))
    assert NASBench201Space(channels=4, num_cells=1).choices() == before
