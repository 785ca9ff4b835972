"""The cost table of a search space: measured once, then read from the cache."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_nas import __version__
from sr_nas.cache import cache_folder
from sr_nas.contracts import CostSite, SearchSpace
from sr_nas.errors import UserError, listing
from sr_nas.genotype import Choices
from sr_nas.registry import COSTS
from sr_nas.runs.files import write_json


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
        described = [
            [
                label,
                site.channels,
                site.downscale,
                site.count,
                [_described(site.build(name)) for name in choices[label].candidates],
            ]
            for label, places in sites.items()
            for site in places
        ]
    key = json.dumps([cost, _source(measure), described, __version__, version("fvcore")])
    file = cache_folder("costs") / f"{cost}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    table = _read(file, {label: len(choices[label].candidates) for label in sites})
    if table is None:
        # Building a candidate draws its initial weights; whether it is measured must not show in anything random.
        with torch.random.fork_rng(devices=[]):
            table = _measured(choices, sites, measure)
        write_json(file, table)
    free = [label for label, costs in table.items() if not sum(costs)]
    if free:
        raise UserError(f"search.{cost}_weight: no candidate of {listing(free)} costs anything in {cost}, so leave it out.")
    return {label: torch.tensor(costs) for label, costs in table.items()}


def _source(measure: Callable[..., float]) -> str:
    """The text of the room that measures, and of a cost that is defined elsewhere."""
    room = "".join(file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("*.py")))
    return hashlib.sha256((room + inspect.getsource(measure)).encode()).hexdigest()


def _described(module: nn.Module) -> str:
    """What the cost of a module may depend on: how it is built, and the source of what is not PyTorch's own."""
    kinds = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    return repr(module) + "".join(sorted(inspect.getsource(kind) for kind in kinds))


def _measured(choices: Choices, sites: Mapping[str, Sequence[CostSite]], measure: Callable[..., float]) -> dict[str, list[float]]:
    return {
        label: [
            sum(site.count * measure(site.build(name), site.channels, site.downscale) for site in places)
            for name in choices[label].candidates
        ]
        for label, places in sites.items()
    }


def _read(file: Path, sizes: dict[str, int]) -> dict[str, list[float]] | None:
    """What the cache holds; ``None`` where it holds nothing, or a file that was damaged."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        return table if {label: len(costs) for label, costs in table.items()} == sizes else None
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return None
