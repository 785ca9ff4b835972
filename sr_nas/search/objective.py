"""How the strength lambda_e of a regulariser depends on the epoch e = 1 ... E (SA-DARTS, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sr_nas.contracts import Weights
from sr_nas.registry import REGULARIZERS, SCHEDULES

WarmUp = Annotated[int, Field(ge=0, description="epochs during which the strength is 0")]


@SCHEDULES.register()
def constant(epoch: int, *, value: float = 1.0, warmup_epochs: WarmUp = 0) -> float:
    """``value`` in every epoch after the warm-up."""
    return value if epoch > warmup_epochs else 0.0


@SCHEDULES.register()
def linear(epoch: int, *, slope: float = 0.2, warmup_epochs: WarmUp = 0) -> float:
    """``slope * (epoch - warmup_epochs)``: with slope 1/5 the paper's default, with 1/2 that of its NAS-Bench-201 ablation."""
    return slope * max(0, epoch - warmup_epochs)


# MERGED sr_nas.search.objective: Regularisers of alpha: functions of the logits of all choices, without
# their strength lambda_e.
#
# To add one, register a function here and name it under ``search.regularizer.type`` in an option file.


@REGULARIZERS.register()
def none(alpha: Sequence[Tensor]) -> Tensor:
    """0: no regulariser."""
    return alpha[0].new_zeros(())


@REGULARIZERS.register()
def l2(alpha: Sequence[Tensor]) -> Tensor:
    """Sum of squares over all choices (DARTS; figure 3 of SA-DARTS)."""
    return torch.stack([logits.square().sum() for logits in alpha]).sum()


@REGULARIZERS.register()
def beta(alpha: Sequence[Tensor]) -> Tensor:
    """Mean over choices of ``log(sum(exp(alpha)))`` (Beta-DARTS, Ye et al. 2022)."""
    return torch.stack([logits.logsumexp(dim=-1) for logits in alpha]).mean()


@REGULARIZERS.register()
def sa(alpha: Sequence[Tensor], *, nu: float = 1.0, mu: float = 0.0) -> Tensor:
    """Smooth activation (SA-DARTS, eq. 7): mean of ``((1+nu) a + (1-nu) a erf(mu (1-nu) a)) / 2``.

    The mean runs over all candidates of all choices, i.e. ``1 / (N_o N_e)`` of eq. 7 where all choices have as many.
    With nu = 1 it is ``mean(alpha)``, eq. 8, the paper's default. Large mu approaches a leaky ReLU of negative slope nu;
    nu = 0 with mu = 1/sqrt(2) is GELU.

    Softmax does not change when all alphas of a choice shift together, and the gradient of eq. 8 is one constant for all
    of them: it cannot change beta by itself. It acts through Adam, whose second moment it inflates: the steps that the
    task drives shrink as lambda_e grows. With plain SGD it leaves beta exactly as without regulariser.
    """
    a = torch.cat([logits.flatten() for logits in alpha])
    return (((1 + nu) * a + (1 - nu) * a * torch.erf(mu * (1 - nu) * a)) / 2).mean()


# MERGED sr_nas.search.objective: Expected cost of a relaxed network, with a gradient to alpha.


CostTable = Mapping[str, Tensor]
"""label -> cost of each of its candidates in the whole derived network, shape [number of candidates]."""


def normalised_cost(weights: Weights, table: CostTable) -> Tensor:
    """Mean over the choices of ``sum_i beta_i c_i / sum_i c_i`` (SA-DARTS, eq. 18; the mean over choices is ours)."""
    terms = [torch.dot(weights[label], costs) / costs.sum() for label, costs in table.items()]
    return torch.stack(terms).mean()


def expected_cost(weights: Weights, table: CostTable) -> Tensor:
    """``sum_labels <beta, c>``: what the choices cost in the unit of the table; one-hot weights give the derived cost."""
    return torch.stack([torch.dot(weights[label], costs) for label, costs in table.items()]).sum()


# MERGED sr_nas.search.objective: What alpha minimises: one function for both orders, and for the history.


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
