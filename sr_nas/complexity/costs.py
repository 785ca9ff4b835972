"""Costs that a search may penalise: functions of a candidate at its place.

To add one, register a function here; an option file weighs it with ``search.<name>_weight``. Option files are
checked against the names here, so that this file imports no PyTorch before it is measured.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sr_nas import __version__
from sr_nas.complexity.described import described, reachable_source
from sr_nas.contracts import CostSite, SearchSpace
from sr_nas.errors import UserError, listing
from sr_nas.registry import COSTS
from sr_nas.runs.files import cache_folder, write_json

if TYPE_CHECKING:
    from torch import nn


@COSTS.register()
def flops(candidate: nn.Module, channels: int, downscale: int) -> float:
    """fvcore's FLOPs (multiply-adds) for a low-resolution network input of 1280x720 (SA-DARTS, section 6.7.3)."""
    from sr_nas.complexity.macs import LR_1280x720, count_macs

    height, width = LR_1280x720
    (macs,) = count_macs(candidate, (Fraction(height, downscale), Fraction(width, downscale)), channels=channels)
    return float(macs[""])


@COSTS.register()
def params(candidate: nn.Module, channels: int, downscale: int) -> float:
    """Trainable values of the candidate."""
    from sr_nas.complexity.macs import count_params

    return float(count_params(candidate))


# MERGED sr_nas.complexity.costs: The cost table of a search space: measured once, then read from the cache.


def cost_table(space: SearchSpace, cost: str) -> dict[str, Tensor]:
    """Return label -> cost of each candidate, summed over all places that share the label.

    Args:
        space: the search space.
        cost: registered name, e.g. ``"flops"``.

    Raises:
        UserError: no candidate of a label costs anything, so that nothing can be weighed.
    """
    measure = COSTS.get(cost)
    choices, sites = space.choices(), space.cost_sites()
    with torch.device("meta"):
        places = {label: [_places(site, choices[label].candidates) for site in own] for label, own in sites.items()}
    known = [__version__, torch.__version__, version("fvcore")]
    key = json.dumps([cost, inspect.getsource(measure), reachable_source(measure.__module__), places, known])
    file = cache_folder("costs") / f"{cost}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    costs = _read(file, {place for own in places.values() for names in own for place in names.values()})
    if costs is None:
        costs = {}
        # Building a candidate draws its initial weights; whether it is measured must not show in anything random.
        with torch.random.fork_rng(devices=[]):
            for label, own in sites.items():
                for site, names in zip(own, places[label], strict=True):
                    for name, place in names.items():
                        if place not in costs:
                            costs[place] = measure(site.build(name), site.channels, site.downscale)
        write_json(file, costs)
    table = {
        label: [
            sum(site.count * costs[names[name]] for site, names in zip(own, places[label], strict=True))
            for name in choices[label].candidates
        ]
        for label, own in sites.items()
    }
    free = [label for label, own in table.items() if not sum(own)]
    if free:
        raise UserError(f"search.{cost}_weight: no candidate of {listing(free)} costs anything in {cost}, so leave it out.")
    return {label: torch.tensor(own) for label, own in table.items()}


def _places(site: CostSite, candidates: Sequence[str]) -> dict[str, str]:
    """Candidate -> a name for all that its cost at this site may depend on; equal ones are measured once."""
    texts = {name: f"{site.channels} {site.downscale} {described(site.build(name))}" for name in candidates}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:24] for name, text in texts.items()}


def _read(file: Path, places: set[str]) -> dict[str, float] | None:
    """What the cache holds; ``None`` where it holds nothing, or a file that was damaged."""
    try:
        costs = json.loads(file.read_text(encoding="utf-8"))
        return costs if costs.keys() == places and all(isinstance(cost, float) for cost in costs.values()) else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None
