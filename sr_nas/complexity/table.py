"""The cost table of a search space: measured once, then read from the cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from sr_nas import __version__
from sr_nas.cache import cache_folder
from sr_nas.contracts import SearchSpace
from sr_nas.registry import COSTS


def cost_table(space: SearchSpace, cost: str) -> dict[str, Tensor]:
    """Return label -> cost of each candidate, summed over all places that share the label.

    Args:
        space: the search space.
        cost: registered name, e.g. ``"flops"``.
    """
    measure = COSTS.get(cost)
    choices, sites = space.choices(), space.cost_sites()
    with torch.device("meta"):
        built = {label: [site.build(name) for name in choices[label].candidates] for label, site in sites.items()}
    described = [
        [label, site.channels, site.downscale, site.count, [repr(m) for m in built[label]]] for label, site in sites.items()
    ]
    key = json.dumps([cost, described, __version__, version("fvcore")])
    file = cache_folder("costs") / f"{cost}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    table = _read(file, {label: len(modules) for label, modules in built.items()})
    if table is None:
        table = {
            label: [site.count * measure(site.build(name), site.channels, site.downscale) for name in choices[label].candidates]
            for label, site in sites.items()
        }
        _write(file, table)
    return {label: torch.tensor(costs) for label, costs in table.items()}


def _read(file: Path, sizes: dict[str, int]) -> dict[str, list[float]] | None:
    """What the cache holds; ``None`` where it holds nothing, or a file that was damaged."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        return table if {label: len(costs) for label, costs in table.items()} == sizes else None
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return None


def _write(file: Path, table: dict[str, list[float]]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as stream:
        json.dump(table, stream)
    os.replace(stream.name, file)
