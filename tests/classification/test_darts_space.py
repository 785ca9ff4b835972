"""The DARTS supernet, against its derived networks and what its papers say."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from sr_nas.classification.darts import DARTS
from sr_nas.classification.darts_operations import (
    DARTS_CANDIDATES,
    DARTS_OPERATIONS,
    KINDS,
    operation_and_source,
    pick,
    read_cells,
)
from sr_nas.classification.darts_space import DARTSSpace
from sr_nas.complexity.costs import cost_table, count_params
from sr_nas.genotype import Genotype
from sr_nas.options.load import load_options
from sr_nas.options.strict import Component, section_model
from sr_nas.registry import CLASSIFICATION_SPACES
from sr_nas.search.objective import normalised_cost
from sr_nas.task import search_options
from tests.conftest import REPOSITORY

TINY: dict[str, Any] = {"channels": 4, "num_cells": 3}
WITHOUT_POOLS = [name for name in DARTS_OPERATIONS if not name.startswith(("none", "max", "avg"))]


def random_genotype(operations: list[str], seed: int, nodes: int = 4) -> Genotype:
    source = random.Random(seed)
    picked = {
        f"{kind}{node}": [pick(source.choice(operations), read) for read in source.sample(range(node), 2)]
        for kind in KINDS
        for node in range(2, 2 + nodes)
    }
    return read_cells(picked, nodes, nodes)


def multi_hot(space: DARTSSpace, genotype: Genotype) -> dict[str, torch.Tensor]:
    """1 for everything that the genotype keeps, 0 for the rest."""
    weights = {label: torch.zeros(len(choice.candidates), dtype=torch.float64) for label, choice in space.choices().items()}
    for label, names in genotype.picks:
        for operation, source in map(operation_and_source, names):
            edge = f"{label}<-{source}"
            weights[edge][space.choices()[edge].candidates.index(operation)] = 1
            if space.edge_normalization:
                weights[f"{label}_edges"][source] = 1
    return weights


def random_weights(space: DARTSSpace, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        label: torch.randn(len(choice.candidates), generator=generator, dtype=torch.float64).softmax(0)
        for label, choice in space.choices().items()
    }


def test_parameters_of_the_papers_supernet() -> None:
    """1.930618M, as the code of DARTS prints it."""
    with torch.device("meta"):
        assert count_params(DARTSSpace()) == 1_930_618


def test_the_choices_of_the_paper() -> None:
    with torch.device("meta"):
        choices = DARTSSpace(**TINY, edge_normalization=True).choices()
    operations = {label: choice for label, choice in choices.items() if choice.of == "operations"}
    assert len(operations) == 2 * 14 and not any("." in label for label in choices)
    assert {choice.candidates for choice in operations.values()} == {DARTS_OPERATIONS}
    inputs = [choice for choice in choices.values() if choice.of == "inputs"]
    assert [len(choice.candidates) for choice in inputs] == [2, 3, 4, 5] * 2 and {choice.picks for choice in inputs} == {2}
    # Liu et al. 2019: 180 pairs of inputs and 7^8 operations of a cell, two cells: about 10^18.
    assert round(math.log10((math.prod(math.comb(size, 2) for size in (2, 3, 4, 5)) * 7**8) ** 2)) == 18


@pytest.mark.parametrize("edge_normalization", [False, True])
@pytest.mark.parametrize(("training", "stem"), [(True, "cifar"), (False, "imagenet")])
def test_weights_of_1_and_0_give_the_derived_network(edge_normalization: bool, training: bool, stem: Any) -> None:
    torch.manual_seed(0)
    space = DARTSSpace(stem, **TINY, edge_normalization=edge_normalization).double().train(training)
    genotype = random_genotype(WITHOUT_POOLS, 1)
    derived = space.derive(genotype).double().train(training)
    inherited = space.inherited(genotype)
    left = derived.load_state_dict(inherited, strict=False)
    # A search has no scales and shifts; everything else is there.
    assert not left.unexpected_keys and all(name.startswith("cells.") for name in left.missing_keys)
    assert {tuple(derived.state_dict()[name].shape) for name in left.missing_keys} <= {(4,), (8,), (16,)}
    x = torch.rand(3, 3, 17, 16, dtype=torch.float64)
    torch.testing.assert_close(space(x, multi_hot(space, genotype)), derived(x), rtol=0, atol=1e-10)


def test_partial_channels_inherit_what_keeps_its_shape() -> None:
    space = DARTSSpace(channels=8, num_cells=3, partial_channel=4)
    genotype = random_genotype(WITHOUT_POOLS, 2)
    derived, inherited = space.derive(genotype), space.inherited(genotype)
    assert not derived.load_state_dict(inherited, strict=False).unexpected_keys
    assert "cells.0.preprocess1.1.weight" in inherited
    assert not any(".edges." in name and name.endswith("weight") for name in inherited)


@pytest.mark.parametrize("settings", [{}, {"partial_channel": 4, "edge_normalization": True}])
def test_every_weight_and_every_alpha_but_that_of_none_gets_a_gradient(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    space = DARTSSpace(channels=8, num_cells=3, **settings)
    weights = {label: values.float().requires_grad_() for label, values in random_weights(space, 0).items()}
    space(torch.rand(4, 3, 16, 16), weights).square().sum().backward()
    for label, weight in weights.items():
        assert weight.grad is not None
        names = space.choices()[label].candidates
        assert all((value != 0) == (name != "none") for name, value in zip(names, weight.grad.tolist(), strict=True)), label
    for name, parameter in space.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_edge_weights_multiply_edges() -> None:
    """A weighted edge is one whose candidates are so weighted: the mixed operation is linear in them."""
    torch.manual_seed(0)
    plain, normalised = DARTSSpace(**TINY).double(), DARTSSpace(**TINY, edge_normalization=True).double()
    normalised.load_state_dict(plain.state_dict())
    weights = random_weights(normalised, 3)
    scaled = {
        label: values * weights[f"{label.split('<-')[0]}_edges"][int(label.split("<-")[1])]
        for label, values in weights.items()
        if "<-" in label
    }
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(normalised(x, weights), plain(x, scaled), rtol=0, atol=1e-12)


@pytest.mark.parametrize("edge_normalization", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_decoding_is_the_papers_top_2(edge_normalization: bool, seed: int) -> None:
    """All pairs of edges of a node are tried: none is heavier than what was kept."""
    with torch.device("meta"):
        space = DARTSSpace(**TINY, edge_normalization=edge_normalization)
    weights = random_weights(space, seed)
    allowed = [index for index, name in enumerate(DARTS_OPERATIONS) if name != "none"]
    for kind in KINDS:
        for node in range(2, 6):
            scores = {}
            for source in range(node):
                edge = weights[f"{kind}{node}_edges"][source].item() if edge_normalization else 1.0
                for index in allowed:
                    scores[DARTS_OPERATIONS[index], source] = weights[f"{kind}{node}<-{source}"][index].item() * edge
            best, *others = sorted(scores, key=lambda key: -scores[key])
            second = next(key for key in others if key[1] != best[1])
            assert space.decode(weights)[f"{kind}{node}"] == (pick(*best), pick(*second))


def test_an_auxiliary_skip_is_more_of_the_skip_connection() -> None:
    """Where its convolutions of stride 2 have the weights of the candidate."""
    torch.manual_seed(0)
    space = DARTSSpace(**TINY, auxiliary_skip=True).double()
    for op in (edge for cell in space.cells for edge in cell.edges.values()):
        op.auxiliary.load_state_dict(op.candidates["skip_connect"].state_dict())
    weights, skip = random_weights(space, 3), DARTS_OPERATIONS.index("skip_connect")
    more = {label: values + 0.3 * torch.eye(len(values)).double()[skip] for label, values in weights.items()}
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    expected = space(x, more)
    space.auxiliary_skip = 0.3
    torch.testing.assert_close(space(x, weights), expected, rtol=0, atol=1e-12)
    assert not any("auxiliary" in name for name in space.inherited(random_genotype(WITHOUT_POOLS, 1)))
    # Eight edges of stride 2 in each of two cells, of C = 8 and 16: two convolutions of C x C/2.
    assert count_params(space) - count_params(DARTSSpace(**TINY)) == 8 * (8**2 + 16**2)


def test_drop_path_leaves_out_edges_in_training_alone() -> None:
    torch.manual_seed(0)
    space, other = DARTSSpace(**TINY).double(), DARTSSpace(**TINY).double()
    other.load_state_dict(space.state_dict())
    weights, x = random_weights(space, 3), torch.rand(2, 3, 9, 8, dtype=torch.float64)
    space.drop_path = 1 - 1e-12
    nothing = {label: torch.zeros_like(values) for label, values in weights.items()}
    torch.testing.assert_close(space(x, weights), other(x, nothing), rtol=0, atol=1e-12)
    dropping = space.eval()(x, weights)
    space.drop_path = 0.0
    assert torch.equal(dropping, space(x, weights))


def test_skip_dropout_zeroes_numbers_of_identities_in_training_alone() -> None:
    """nn.Dropout behind every identity, with weight w: a number x is 0, or x / (1 - p), w times; at stride 2 there is none."""
    torch.manual_seed(0)
    space = DARTSSpace(**TINY).double()
    op, halving = (space.cells[index].edges["3_1"] for index in (0, 1))
    x, alone = torch.rand(2, 4, 9, 8, dtype=torch.float64), torch.eye(8)[DARTS_OPERATIONS.index("skip_connect")]
    assert space.skip_dropout == 0.0 and torch.equal(op(x, alone), x)
    space.skip_dropout = 0.7
    assert space.skip_dropout == 0.7
    ratio = op(x, 0.5 * alone) / x
    kept = ratio > 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 0.5 / 0.3), rtol=1e-12, atol=0)
    assert kept.float().mean().item() == pytest.approx(0.3, abs=0.1) and 0 < kept[0, 0].sum() < 72  # numbers, not samples
    wide = torch.rand(2, 8, 9, 8, dtype=torch.float64)
    assert torch.equal(halving(wide, alone), halving(wide, alone)), "a factorised reduction has no dropout"
    assert torch.equal(space.eval().cells[0].edges["3_1"](x, alone), x)
    with torch.device("meta"):
        assert DARTSSpace(**TINY, candidates=["none", "sep_conv_3x3"]).skip_dropout == 0.0


def test_none_is_never_kept_and_ties_go_to_the_first() -> None:
    with torch.device("meta"):
        space = DARTSSpace(**TINY, candidates=["none", "skip_connect", "sep_conv_3x3"])
    weights = {label: torch.tensor([0.9, 0.05, 0.05]) for label in space.choices()}
    assert set(space.decode(weights).picks) == {
        (f"{kind}{node}", ("skip_connect~0", "skip_connect~1")) for kind in KINDS for node in range(2, 6)
    }


def test_edges_may_have_candidates_of_their_own() -> None:
    """As in S1 of Zela et al. 2020."""
    torch.manual_seed(0)
    labels = list(DARTSSpace(**TINY, nodes=2, multiplier=2).choices())
    candidates = {label: ["max_pool_3x3", "dil_conv_3x3"] if "<-0" in label else ["skip_connect", "noise"] for label in labels}
    settings = {"channels": 4, "num_cells": 3, "nodes": 2, "multiplier": 2, "candidates": candidates}
    section = section_model(CLASSIFICATION_SPACES, "DARTS", Component).model_validate(settings)
    space = CLASSIFICATION_SPACES.get("DARTS")(**section.arguments())  # type: ignore[attr-defined]
    assert {label: list(choice.candidates) for label, choice in space.choices().items()} == candidates
    weights = {label: torch.tensor([0.6, 0.4]) for label in labels}
    assert space(torch.rand(2, 3, 8, 8), weights).shape == (2, 10)
    genotype = space.decode(weights)
    assert genotype["reduce3"] == ("max_pool_3x3~0", "skip_connect~1")
    assert isinstance(space.derive(genotype), DARTS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partial_channel": 3}, "partial_channel 3 must divide channels = 16"),
        ({"candidates": ["none", "conv_9x9"]}, "unknown DARTS candidate 'conv_9x9'"),
        ({"candidates": ["none"]}, "two or more"),
        ({"candidates": {"normal2<-0": ["none", "noise"]}}, "names no operations for normal2<-1"),
        ({"candidates": {"normal2<-2": ["none", "noise"]}}, "there is no edge 'normal2<-2'"),
        ({"multiplier": 5}, "multiplier 5 joins more than the 4 nodes"),
    ],
)
def test_impossible_spaces_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DARTSSpace(**settings)
    with pytest.raises(ValueError, match=words):
        section_model(CLASSIFICATION_SPACES, "DARTS", Component).model_validate(settings)


def test_parameter_costs_are_the_difference_of_derived_networks() -> None:
    space: Any = DARTSSpace(**TINY, nodes=2, multiplier=2)
    table = cost_table(space, "params")
    assert set(table) == set(space.operations)

    def both(seed: int) -> tuple[float, float]:
        genotype = random_genotype([name for name in DARTS_OPERATIONS if name != "none"], seed, nodes=2)
        weights = multi_hot(space, genotype)
        return sum((weights[label] * costs).sum().item() for label, costs in table.items()), count_params(space.derive(genotype))

    expected, measured = both(0)
    other_expected, other_measured = both(1)
    assert other_expected - expected == other_measured - measured != 0


def test_the_cost_term_of_u_darts() -> None:
    """0.0175 times the sum over choices of sum_o beta_o (1 / (1 + depth_o) + 0.1 params_o / sum params), by its public code."""
    depth = {"sep_conv_3x3": 2, "sep_conv_5x5": 2, "dil_conv_3x3": 1, "dil_conv_5x5": 1}
    options = load_options(search_options, REPOSITORY / "options/darts/udarts.yml", check_files=False)
    space: Any = DARTSSpace(**TINY)
    tables = {cost: cost_table(space, cost) for cost in ("shallowness", "params")}
    weights = {label: torch.rand(8, generator=torch.Generator().manual_seed(3)).double() for label in space.choices()}
    expected = 0.0
    for label, beta in weights.items():
        shares = tables["params"][label] / tables["params"][label].sum()
        for weight, name, share in zip(beta.tolist(), DARTS_OPERATIONS, shares.tolist(), strict=True):
            expected += 0.0175 * weight * (1 / (1 + depth.get(name, 0)) + 0.1 * share)
    term = sum(weight * normalised_cost(weights, tables[cost]) for cost, weight in options.search.costs().items())
    assert set(options.search.costs()) == set(tables) and len(weights) == 28
    assert float(term) == pytest.approx(expected, rel=1e-6)


def test_multiply_adds_by_hand() -> None:
    """A dilated convolution at C channels: (9 C + C^2) a pixel and its BatchNorm's 2 C, in every cell of its kind."""
    space: Any = DARTSSpace("imagenet", **TINY, candidates=["max_pool_3x3", "dil_conv_3x3"], nodes=1, multiplier=1)
    table = cost_table(space, "flops")
    # One normal cell at an eighth of the side; the reductions write a sixteenth with 2 C and a 32nd, rounded up, with 4 C.
    normal = (9 * 4 + 16 + 8) * 90 * 160
    reduce = (9 * 8 + 64 + 16) * 45 * 80 + (9 * 16 + 256 + 32) * 23 * 40
    assert table["normal2<-0"].tolist() == [0, pytest.approx(normal, rel=1e-9)]
    assert table["reduce2<-1"].tolist() == [0, pytest.approx(reduce, rel=1e-9)]


def test_edges_of_free_operations_have_no_cost() -> None:
    space = DARTSSpace(**TINY, candidates=["none", "skip_connect", "avg_pool_3x3"])
    # At stride 2 a skip connection has convolutions.
    assert set(space.cost_sites()) == {label for label in space.operations if label.startswith("reduce") and label[-1] in "01"}


def test_every_registered_candidate_can_be_searched() -> None:
    torch.manual_seed(0)
    space = DARTSSpace(**TINY, nodes=1, multiplier=1, candidates=DARTS_CANDIDATES.names())
    assert space(torch.rand(2, 3, 8, 8), {k: v.float() for k, v in random_weights(space, 0).items()}).isfinite().all()
