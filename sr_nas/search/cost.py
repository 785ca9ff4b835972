"""Expected cost of a relaxed network, with a gradient to alpha."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sr_nas.contracts import Weights

CostTable = Mapping[str, Tensor]
"""label -> cost of each of its candidates in the whole derived network, shape [number of candidates]."""


def normalised_cost(weights: Weights, table: CostTable) -> Tensor:
    """Mean over the choices of ``sum_i beta_i c_i / sum_i c_i`` (SA-DARTS, eq. 18; the mean over choices is ours)."""
    terms = [torch.dot(weights[label], costs) / costs.sum() for label, costs in table.items()]
    return torch.stack(terms).mean()


def expected_cost(weights: Weights, table: CostTable) -> Tensor:
    """``sum_labels <beta, c>``: what the choices cost in the unit of the table; one-hot weights give the derived cost."""
    return torch.stack([torch.dot(weights[label], costs) for label, costs in table.items()]).sum()
