"""Selections by beta alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_nas.classification.darts_operations import DARTS_OPERATIONS, operation_and_source
from sr_nas.classification.darts_space import DARTSSpace, edge_choices
from sr_nas.classification.nasbench201 import EDGES, NASBench201Space
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.search.decoding import above_threshold, limited_skips
from tests.search.test_selection import LABELS, Known


def thresholded(space: Any, weights: dict[str, Tensor]) -> tuple[Genotype, dict[str, float]]:
    stub: Any = SimpleNamespace(space=space, budgets={}, beta=lambda: weights)
    return above_threshold(stub, threshold=0.85)()


def test_a_threshold_leaves_out_edges_without_a_candidate_above_it() -> None:
    """FairDARTS's public parser: of the two best edges of a node, those whose weight is at least 0.85."""
    space = NASBench201Space(channels=2, num_cells=1)
    names = space.choices()[EDGES[0]].candidates
    rows = [[0.9, 0.2, 0.3, 0.1, 0.1], [0.1, 0.86, 0.9, 0.1, 0.1], [0.84, 0.5, 0.5, 0.84, 0.2], [0.1, 0.1, 0.1, 0.85, 0.1]]
    weights = {label: torch.tensor(row) for label, row in zip(EDGES, [*rows, rows[1], rows[2]], strict=True)}
    genotype, numbers = thresholded(space, weights)
    assert genotype.names == ["none", names[2], "none", names[3], names[2], "none"] and numbers == {"below_threshold": 3}

    darts = DARTSSpace(channels=4, num_cells=3, nodes=2, multiplier=2)
    low = {label: torch.full((8,), 0.3) for label in darts.choices()}
    low["normal2<-1"][5] = low["normal3<-2"][4] = 0.9
    low["normal3<-0"][3] = 0.95
    genotype, _ = thresholded(darts, low)
    assert genotype["normal2"] == ("sep_conv_5x5~1", "none~0")
    assert genotype["normal3"] == ("skip_connect~0", "sep_conv_3x3~2")
    assert genotype["reduce2"] == ("none~0", "none~1")
    without = DARTSSpace(channels=4, num_cells=3, nodes=2, multiplier=2, candidates=["skip_connect", "sep_conv_3x3"])
    low = {label: torch.full((2,), 0.3) for label in without.choices()}
    low["normal3<-0"][1] = 0.95
    sparse, numbers = thresholded(without, low)
    assert sparse["normal3"] == ("sep_conv_3x3~0", "none~1") and sparse["reduce2"] == ("none~0", "none~1")
    assert numbers == {"below_threshold": len(low) - 1}
    network = darts.derive(genotype)
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 10)


def test_a_threshold_keeps_the_argmax_where_there_is_no_none_and_knows_no_budget() -> None:
    space = Known()
    weights = {label: torch.tensor([0.1, 0.3, 0.2, 0.0]) for label in LABELS}
    assert thresholded(space, weights)[0].names == ["op1"] * 4
    stub: Any = SimpleNamespace(space=space, budgets={"params": 1})
    for name, selection in (("threshold", above_threshold), ("limited_skips", limited_skips)):
        with pytest.raises(UserError, match=rf"{name} leaves candidates out, whatever search\.budget asks for"):
            selection(stub)


def limited(space: Any, weights: dict[str, Tensor], **options: Any) -> tuple[Genotype, dict[str, float]]:
    stub: Any = SimpleNamespace(space=space, budgets={}, beta=lambda: weights, genotype=lambda: space.decode(weights))
    return limited_skips(stub, **options)()


def normal_skips(genotype: Genotype) -> list[str]:
    """Labels of the edges of the normal cell that are skip connections."""
    pairs = [(label, *operation_and_source(name)) for label, names in genotype.picks for name in names]
    return [f"{label}<-{source}" for label, name, source in pairs if name == "skip_connect" and label.startswith("normal")]


def by_the_public_code(space: DARTSSpace, weights: dict[str, Tensor], most: int) -> Genotype:
    """P-DARTS's public code (train_search.py): of those that the network has, the weakest loses its beta; then decode anew."""
    weights = {label: beta.clone() for label, beta in weights.items()}
    while len(edges := normal_skips(genotype := space.decode(weights))) > most:
        places = {label: space.choices()[label].candidates.index("skip_connect") for label in edges}
        weakest = min(edges, key=lambda label: float(weights[label][places[label]]))
        weights[weakest][places[weakest]] = 0
    return genotype


def test_skip_connections_are_limited_as_by_the_public_code() -> None:
    random, changed = np.random.default_rng(0), 0
    others = [name for name in DARTS_OPERATIONS if name != "skip_connect"]
    names = {label: ["skip_connect", *map(str, random.choice(others, 2, replace=False))] for label in edge_choices(None, 4)}
    with torch.device("meta"):
        space = DARTSSpace(channels=4, num_cells=3, candidates=names)
    for draw in range(12):
        # Skips as strong as in a collapse, most of them.
        weights = {label: torch.from_numpy(random.dirichlet([2.0, 1.0, 1.0])) for label in names}
        before, most = {label: beta.clone() for label, beta in weights.items()}, (2, 0, 2, 8)[draw % 4]
        genotype, numbers = limited(space, weights, skips=most, cells="normal")
        assert genotype == by_the_public_code(space, weights, most)
        assert numbers["skip_connections"] == len(normal_skips(genotype)) <= most
        assert (numbers["skips_removed"] > 0) == (genotype != space.decode(weights))
        changed += genotype != space.decode(weights)
        assert all(torch.equal(weights[label], before[label]) for label in weights)
    assert changed >= 6


def test_skip_connections_of_a_cell_without_names() -> None:
    """NAS-Bench-201: none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3; the edges lose their skips in order."""
    space = NASBench201Space(channels=2, num_cells=1)
    weights = {label: torch.tensor([0.1, 0.5 - 0.01 * place, 0.2, 0.1, 0.1]) for place, label in enumerate(EDGES)}
    genotype, numbers = limited(space, weights, skips=2)
    assert genotype.names == ["skip_connect"] * 2 + ["nor_conv_1x1"] * 4
    assert numbers == {"skip_connections": 2, "skips_removed": 4}
    with pytest.raises(UserError, match=r"search\.selection\.cells: no label of the genotype begins with 'normal'"):
        limited(space, weights, cells="normal")


def test_a_space_of_skip_connections_and_nothing_else_keeps_none() -> None:
    names = {label: ["none", "skip_connect"] for label in edge_choices(None, 2)}
    space = DARTSSpace(channels=4, num_cells=3, nodes=2, multiplier=2, candidates=names)
    genotype, numbers = limited(space, {label: torch.tensor([0.4, 0.6]) for label in names}, skips=0)
    assert {operation_and_source(name)[0] for _, pair in genotype.picks for name in pair} == {"none"}
    assert numbers["skip_connections"] == 0
