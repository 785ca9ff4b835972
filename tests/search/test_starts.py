"""Starts of alpha that SA-DARTS's experiments need, and what they do."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from sr_nas.genotype import Choice, Genotype
from sr_nas.search.alpha import Alpha, softmax
from tests.search.toy import ToySpace

EDGE = {"edge": Choice(("none", "skip_connect", "conv1", "conv3", "pool"))}


def test_the_unfair_start_has_the_beta_of_figure_4() -> None:
    alpha = Alpha(EDGE, "constant", 0.0, {"skip_connect": 0.1})
    assert alpha.relax(softmax)["edge"].tolist() == pytest.approx([0.196, 0.216, 0.196, 0.196, 0.196], abs=6e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_a_negative_start_moves_beta_only_through_weight_decay(weight_decay: float) -> None:
    """Table 8: softmax does not see a shift of all logits; Adam's coupled weight decay does."""
    target, paths = torch.tensor([0.1, 0.3, 0.2, 0.3, 0.1], dtype=torch.float64), []
    for value in (0.0, -5.0):
        alpha = Alpha(EDGE, "constant", value).double()
        optimizer = torch.optim.Adam(alpha.parameters(), lr=3e-2, betas=(0.5, 0.999), weight_decay=weight_decay)
        for _ in range(30):
            optimizer.zero_grad()
            (alpha.relax(softmax)["edge"] - target).square().sum().backward()
            optimizer.step()
        paths.append(alpha.relax(softmax)["edge"].detach())
    assert ((paths[0] - paths[1]).abs().max() < 1e-6) == (weight_decay == 0)


def test_the_best_of_a_normal_start_is_a_uniform_draw() -> None:
    """Random sampling, the baseline: a search without steps; each seed draws one network."""
    space, count = ToySpace(), 1500
    counts: Counter[Genotype] = Counter()
    for seed in range(count):
        alpha = Alpha(space.choices(), "normal", 1.0, generator=torch.Generator().manual_seed(seed))
        counts[space.decode(alpha.relax(softmax))] += 1
    assert len(counts) == 6
    assert sum((found - count / 6) ** 2 / (count / 6) for found in counts.values()) < 15.1  # chi-square, 5 degrees of freedom, 1%
