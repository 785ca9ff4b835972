"""What alpha minimises: one function for both orders, and for the history."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sr_nas.contracts import Weights
from sr_nas.search.cost import CostTable, normalised_cost


@dataclass(frozen=True)
class Objective:
    """``task + lambda_e * regularizer(alpha) + sum_costs weight * normalised_cost(beta)``.

    Attributes:
        task: (output, target) -> scalar loss.
        regularizer: logits of the regularised choices -> scalar (``L_SA`` of eq. 7 without lambda_e).
        strength: epoch, counted from 1 -> lambda_e. It is applied once, here.
        regularized: labels of the choices that the regulariser sees; with none it is 0.
        costs: name -> (weight, table), e.g. ``{"flops": (0.1, table)}``; weights of 0 may be left out.
    """

    task: Callable[[Tensor, Tensor], Tensor]
    regularizer: Callable[[Sequence[Tensor]], Tensor]
    strength: Callable[[int], float]
    regularized: Collection[str]
    costs: Mapping[str, tuple[float, CostTable]] = field(default_factory=dict)

    def __call__(
        self, task: Tensor, alpha: Mapping[str, Tensor], weights: Weights, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and its weighted parts ``task``, ``regularizer``, ``cost``, ``total``, all scalars."""
        regularizer = cost = task.new_zeros(())
        if self.regularized:
            regularizer = self.strength(epoch) * self.regularizer([alpha[label] for label in self.regularized])
        for weight, table in self.costs.values():
            cost = cost + weight * normalised_cost(weights, table)
        total = task + regularizer + cost
        return total, {"task": task, "regularizer": regularizer, "cost": cost, "total": total}
