"""Costs that a search may penalise, and their table for the candidates of a search space.

To add one, register a function here: a candidate module, its input channels and how many times smaller per side its input is
than the network's, to a number. Costs must add up over the modules of a network. An option file weighs a cost with
``search.<name>_weight``.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import torch
from torch import Tensor, nn

from sr_nas.complexity.macs import LR_1280x720, count_macs, count_params
from sr_nas.contracts import CostSite, SearchSpace, reparameterized
from sr_nas.errors import UserError, listing
from sr_nas.registry import COSTS


@COSTS.register()
def flops(candidate: nn.Module, channels: int, downscale: int) -> float:
    """fvcore's FLOPs (multiply-adds) for a low-resolution network input of 1280x720 (SA-DARTS, section 6.7.3)."""
    height, width = LR_1280x720
    (macs,) = count_macs(candidate, (Fraction(height, downscale), Fraction(width, downscale)), channels=channels)
    return float(macs[""])


@COSTS.register()
def params(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Number of trainable values of the candidate."""
    return float(count_params(candidate))


def cost_table(space: SearchSpace, cost: str) -> dict[str, Tensor]:
    """Return label -> cost of each candidate, float32 [candidates], summed over all sites that share the label.

    Args:
        space: the search space.
        cost: registered name, e.g. ``"flops"``.

    Raises:
        UserError: all candidates of a label cost nothing, so that there is nothing to weigh.
    """
    measure, choices = COSTS.get(cost), space.choices()

    @cache  # labels may share their sites
    def cost_at(site: CostSite, name: str) -> float:
        return float(site.count * measure(reparameterized(site.build(name)), site.channels, site.downscale))

    # Building a candidate draws initial weights; the random numbers of a search must not depend on what is measured.
    with torch.random.fork_rng(devices=[]):
        table = {
            label: [sum(cost_at(site, name) for site in sites) for name in choices[label].candidates]
            for label, sites in space.cost_sites().items()
        }
    free = [label for label, costs in table.items() if not any(costs)]
    if free:
        raise UserError(f"search.{cost}_weight: no candidate of {listing(free)} costs anything in {cost}, so leave it out.")
    return {label: torch.tensor(costs) for label, costs in table.items()}
