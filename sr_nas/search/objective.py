"""What alpha minimises: task loss, regulariser with its strength per epoch, and expected cost.

To add a regulariser, register a function here: label -> :class:`ChoiceLogits` of the regularised choices, to a scalar without
the strength lambda_e. To add a schedule, of lambda_e or of a number of the supernet (``search.over_epochs``), register a function
of the epoch, counted from 1; one with a parameter ``epochs`` is told how many there are.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MinLen
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from sr_nas.contracts import Weights
from sr_nas.errors import UserError
from sr_nas.genotype import WIDTH, Choices
from sr_nas.registry import REGULARIZERS, SCHEDULES
from sr_nas.search.alpha import concentration

CostTable = Mapping[str, Tensor]
"""label -> cost of each of its candidates in the whole derived network, shape [number of candidates].

Of candidates whose cost depends on the width it is [widths, candidates], in the order of the choice
:data:`~sr_nas.genotype.WIDTH`.
"""

WarmUp = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class ChoiceLogits:
    """alpha of one choice: ``logits[i]``, of shape ``[number of candidates]``, is of the candidate named ``candidates[i]``."""

    candidates: tuple[str, ...]
    logits: Tensor


# lambda_e by epoch e = 1 ... E (SA-DARTS, algorithm 1), and numbers of a supernet that change over the epochs.


def over(epochs: int, schedule: Callable[..., float]) -> Callable[[int], float]:
    """Return a schedule of a search, or a restart, of so many epochs as a function of the epoch alone."""
    return partial(schedule, epochs=epochs) if "epochs" in inspect.signature(schedule).parameters else schedule


@SCHEDULES.register()
def constant(epoch: int, *, value: float = 1.0, warmup_epochs: WarmUp = 0) -> float:
    """``value`` in every epoch after the warm-up."""
    return value if epoch > warmup_epochs else 0.0


@SCHEDULES.register()
def linear(epoch: int, *, slope: float = 0.2, warmup_epochs: WarmUp = 0) -> float:
    """``slope * (epoch - warmup_epochs)``: with slope 1/5 the paper's default, with 1/2 that of its NAS-Bench-201 ablation."""
    return slope * max(0, epoch - warmup_epochs)


@SCHEDULES.register()
def ramp(
    epoch: int,
    epochs: int,
    *,
    first: float,
    last: float,
    form: Literal["linear", "cosine"] = "linear",
    reached: Literal["at_the_end", "after_it"] = "at_the_end",
) -> float:
    """From ``first`` in epoch 1 to ``last``, whatever the length of the search.

    Args:
        epoch: counted from 1.
        epochs: of the search, or of a restart.
        first: in epoch 1.
        last: of the ramp.
        form: a straight line, or half a cosine, which is flat at both ends.
        reached: whether ``last`` is the value of the last epoch, or would be that of the one after it.
    """
    share = max(0, epoch - 1) / max(1, epochs - (reached == "at_the_end"))
    if form == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return first + (last - first) * share


@SCHEDULES.register()
def stages(epoch: int, epochs: int, *, values: Annotated[list[float], MinLen(1)]) -> float:
    """One value after another, each for the same number of epochs.

    Args:
        epoch: counted from 1.
        epochs: of the search, or of a restart.
        values: of the stages.
    """
    return values[min(max(0, epoch - 1) * len(values) // max(1, epochs), len(values) - 1)]


@SCHEDULES.register()
def decay(epoch: int, epochs: int, *, first: float, rate: float = 0.2, warmup_epochs: WarmUp = 0) -> float:
    """``first * exp(-rate * e)``, e = 0, 1, ... after the warm-up; in it ``first * (1 - epoch / epochs)``, as P-DARTS's code.

    Args:
        epoch: counted from 1.
        epochs: of the search, or of a restart.
        first: in the first epoch after the warm-up.
        rate: of the decay in an epoch.
        warmup_epochs: epochs of the line before it, which would reach 0 in the last of ``epochs``.
    """
    after = epoch - 1 - warmup_epochs
    return first * (math.exp(-rate * after) if after >= 0 else 1 - max(0, epoch) / max(1, epochs))


@REGULARIZERS.register()
def none(alpha: Mapping[str, ChoiceLogits]) -> Tensor:
    """0: no regulariser."""
    return next(iter(alpha.values())).logits.new_zeros(())


@REGULARIZERS.register()
def l2(alpha: Mapping[str, ChoiceLogits]) -> Tensor:
    """Sum of squares over all choices (DARTS; figure 3 of SA-DARTS)."""
    return torch.stack([choice.logits.square().sum() for choice in alpha.values()]).sum()


@REGULARIZERS.register()
def beta(alpha: Mapping[str, ChoiceLogits]) -> Tensor:
    """Mean over choices of ``log(sum(exp(alpha)))`` (Beta-DARTS, Ye et al. 2022)."""
    return torch.stack([choice.logits.logsumexp(dim=-1) for choice in alpha.values()]).mean()


@REGULARIZERS.register()
def sa(alpha: Mapping[str, ChoiceLogits], *, nu: float = 1.0, mu: float = 0.0) -> Tensor:
    """Smooth activation (SA-DARTS, eq. 7): mean of ``((1+nu) a + (1-nu) a erf(mu (1-nu) a)) / 2``.

    The mean runs over all candidates of all choices, i.e. ``1 / (N_o N_e)`` of eq. 7 where all choices have as many.
    With nu = 1 it is ``mean(alpha)``, eq. 8, the paper's default. Large mu approaches a leaky ReLU of negative slope nu;
    nu = 0 with mu = 1/sqrt(2) is GELU.

    Softmax does not change when all alphas of a choice shift together, and the gradient of eq. 8 is one constant for all
    of them: it cannot change beta by itself. It acts through Adam, whose second moment it inflates: the steps that the
    task drives shrink as lambda_e grows. With plain SGD it leaves beta exactly as without regulariser.
    """
    a = torch.cat([choice.logits for choice in alpha.values()])
    return (((1 + nu) * a + (1 - nu) * a * torch.erf(mu * (1 - nu) * a)) / 2).mean()


@REGULARIZERS.register()
def dirichlet_kl(alpha: Mapping[str, ChoiceLogits]) -> Tensor:
    """Sum over choices of the divergence of ``Dirichlet(elu(alpha) + 1)`` from the uniform ``Dirichlet(1)`` (DrNAS)."""
    above_0 = [concentration(choice.logits) for choice in alpha.values()]
    terms = [
        kl_divergence(Dirichlet(c, validate_args=False), Dirichlet(c.new_ones(len(c)), validate_args=False)) for c in above_0
    ]
    return torch.stack(terms).sum()


@REGULARIZERS.register()
def zero_one(alpha: Mapping[str, ChoiceLogits]) -> Tensor:
    """``-(sigmoid(alpha) - 1/2)^2``, the mean over all candidates, which drives them to 0 or 1 (FairDARTS, Chu et al. 2020)."""
    return -(torch.cat([choice.logits for choice in alpha.values()]).sigmoid() - 0.5).square().mean()


def normalised_cost(weights: Weights, table: CostTable) -> Tensor:
    """Mean over the choices of ``sum_i beta_i c_i / sum_i c_i`` (SA-DARTS, eq. 18; the mean over choices is ours).

    Where c depends on the width, the numerator is its expectation over the widths, and the denominator that of the dearest one.
    A choice whose candidates all cost nothing counts as 0.
    """
    tiny = torch.finfo(torch.float32).tiny
    terms = [_expected(weights, label, costs) / costs.sum(-1).max().clamp_min(tiny) for label, costs in table.items()]
    return torch.stack(terms).mean()


def expected_cost(weights: Weights, table: CostTable) -> Tensor:
    """``sum_labels <beta, c>``: cost of the choices in the table's unit; one-hot weights give the derived network's."""
    return torch.stack([_expected(weights, label, costs) for label, costs in table.items()]).sum()


def _expected(weights: Weights, label: str, costs: Tensor) -> Tensor:
    return torch.dot(weights[label], costs if costs.ndim == 1 else weights[WIDTH] @ costs)


Regularizer = Callable[[Mapping[str, ChoiceLogits]], Tensor]
Strength = Callable[[int], float]


@dataclass(frozen=True)
class Objective:
    """``task + lambda_e * regularizer(alpha) + sum_costs weight * normalised_cost(beta)``.

    Attributes:
        task: (output, target) -> scalar loss.
        regularizer: one of this module.
        strength: epoch, counted from 1 -> lambda_e, which is applied here and nowhere else.
        regularized: the choices that the regulariser sees; with none of them it is 0.
        costs: name -> (weight, table), e.g. ``{"flops": (0.1, table)}``.
        further: more regularisers, each with its own strength and choices.
    """

    task: Callable[[Tensor, Tensor], Tensor]
    regularizer: Regularizer
    strength: Strength
    regularized: Choices
    costs: Mapping[str, tuple[float, CostTable]] = field(default_factory=dict)
    further: tuple[tuple[Regularizer, Strength, Choices], ...] = ()

    def strengths(self, epoch: int) -> tuple[float, ...]:
        """Return lambda_e of each regulariser."""
        return self.strength(epoch), *(strength(epoch) for _, strength, _ in self.further)

    def __call__(
        self, task: Tensor, alpha: Mapping[str, Tensor], weights: Weights, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total of a task loss, and its weighted parts ``task``, ``regularizer``, ``cost``, ``total``, all scalars.

        ``alpha`` is label -> logits, ``weights`` label -> relaxed weights, and ``epoch`` counts from 1.

        Raises:
            UserError: a regulariser, perhaps of a plug-in, returns no scalar.
        """
        regularizer = cost = task.new_zeros(())
        for function, strength, regularized in ((self.regularizer, self.strength, self.regularized), *self.further):
            choices = {label: ChoiceLogits(choice.candidates, alpha[label]) for label, choice in regularized.items()}
            if choices:
                term = function(choices)
                if (isinstance(term, Tensor) and term.ndim) or not isinstance(term, Tensor | int | float):
                    name = getattr(getattr(function, "func", function), "__name__", type(function).__name__)
                    what = f"a tensor of shape {list(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                    raise UserError(f"the regulariser {name} must return a scalar, for example by .mean(); it returns {what}.")
                regularizer = regularizer + strength(epoch) * term
        for weight, table in self.costs.values():
            cost = cost + weight * normalised_cost(weights, table)
        total = task + regularizer + cost
        return total, {"task": task, "regularizer": regularizer, "cost": cost, "total": total}
