"""Tensors of others under our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(regular expression, replacement): the first that matches a name applies."""

Network = TypeVar("Network", bound=SRNetwork)


def renamed(tensors: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Return the tensors under the names that the rules make of theirs."""
    return {_rename(name, rules): tensor for name, tensor in tensors.items()}


def fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> Network:
    """Give a network the tensors of its own names, all of them and no others, and return it.

    Raises:
        UserError: a tensor is missing, of another shape, or unknown.
    """
    own = network.state_dict()
    wrong = [name for name in own if name not in tensors or tensors[name].shape != own[name].shape]
    unknown = [name for name in tensors if name not in own]
    if wrong or unknown:
        raise UserError(
            f"{path} does not fit {network.genotype} x{network.scale}; missing or of another shape: "
            f"{listing(wrong, 5) or 'nothing'}; unknown: {listing(unknown, 5) or 'nothing'}."
        )
    network.load_state_dict(tensors)
    return network


def _rename(name: str, rules: Rules) -> Any:
    for pattern, replacement in rules:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            return changed
    return name
