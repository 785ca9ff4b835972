"""Costs of candidates, and their table for a space (its sums over networks: tests/spaces)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sr_nas.complexity.costs import cost_table, flops, params
from sr_nas.contracts import CostSite
from sr_nas.errors import UserError


def test_costs_of_a_candidate() -> None:
    """A 3x3 convolution 8 -> 4 with biases, at a quarter of 1280x720 per side."""
    candidate = nn.Conv2d(8, 4, 3, padding=1)
    assert flops(candidate, 8, 4) == 8 * 4 * 9 * 320 * 180
    assert flops(nn.Conv2d(8, 4, 1), 8, 3) == 8 * 4 * 1280 * 720 / 9
    assert params(candidate, 8, 4) == 8 * 4 * 9 + 4


class Space:
    """Two labels that share a site of three places, of which one label has another place at half the size."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def choices(self) -> dict[str, Any]:
        return dict.fromkeys("ab", SimpleNamespace(candidates=("none", "conv")))

    def build(self, name: str) -> nn.Module:
        self.built.append(name)
        return nn.Conv2d(2, 4, 1, bias=False) if name == "conv" else nn.Identity()

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        shared = CostSite(self.build, 2, count=3)
        return {"a": (shared,), "b": (shared, CostSite(self.build, 2, downscale=2))}


def test_a_table_sums_over_the_places_of_a_label() -> None:
    space = Space()
    state = torch.get_rng_state()
    table = cost_table(space, "flops")  # type: ignore[arg-type]
    macs = 8 * 1280 * 720
    assert {label: costs.tolist() for label, costs in table.items()} == {"a": [0, 3 * macs], "b": [0, 3 * macs + macs / 4]}
    assert torch.equal(torch.get_rng_state(), state), "measuring must not draw random numbers"
    assert sorted(space.built) == ["conv", "conv", "none", "none"], "a shared site is measured once"


def test_a_label_that_costs_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Space, "build", lambda self, name: nn.Identity())
    with pytest.raises(UserError, match=r"search\.params_weight: no candidate of a, b costs anything in params"):
        cost_table(Space(), "params")  # type: ignore[arg-type]
