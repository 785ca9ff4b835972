"""The gradient of alpha in second order by finite differences (DARTS, eq. 7 and 8): no graph of a graph, at any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sr_nas.contracts import Weights
from sr_nas.runs.distributed import mean
from sr_nas.search.alpha import Alpha
from sr_nas.search.bilevel import Batch, add_gradient
from sr_nas.search.objective import Objective

RADIUS = 0.01
"""Length of the step in the weights on either side (DARTS, section 2.3)."""


def alpha_gradient_by_differences(
    space: nn.Module,
    alpha: Alpha,
    relaxation: Callable[[Tensor], Tensor],
    objective: Objective,
    epoch: int,
    validation: Batch,
    training: Batch,
    xi: float,
    on_both: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    radius: float = RADIUS,
) -> dict[str, Tensor]:
    """Do what :func:`sr_nas.search.bilevel.alpha_gradient` does in second order, with DARTS's approximation.

    With ``w' = w - xi * dL_train/dw`` and ``d = d objective/dw'``, the mixed second derivative of the training loss times d is
    taken for ``(dL_train(w + eps d)/d alpha - dL_train(w - eps d)/d alpha) / (2 eps)``, ``eps = radius / |d|``. Two more passes
    over the training batch stand in for the second derivative, and no pass needs more memory than one of first order.

    Where the network is smooth, the error falls with the square of the radius. Rectifiers are not: differences see the kinks
    that lie between the two sides, of which a derivative at one point knows nothing. On networks with many of them the two
    differ by a tenth or two of what second order adds.

    Args:
        radius: of the differences; ``space`` to ``autocast`` as there.

    Returns:
        The detached parts of the objective, means over the processes.
    """
    relaxed = alpha.relax(relaxation)
    weights = {label: weight.detach().requires_grad_() for label, weight in relaxed.items()}
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in space.named_parameters()}

    def loss(values: Mapping[str, Tensor], batch: Batch, weights: Weights) -> Tensor:
        copies = {name: buffer.clone() for name, buffer in space.named_buffers()}
        with autocast():
            return objective.task(functional_call(space, {**copies, **values}, (batch[0], weights)), batch[1])

    step = _mean_gradient(loss(parameters, training, weights), parameters)
    ahead = {name: (value.detach() - xi * step[name]).requires_grad_() for name, value in parameters.items()}
    task = loss(ahead, validation, weights)
    if on_both:
        task = task + loss(ahead, training, weights)
    total, parts = objective(task, alpha.by_label(), weights, epoch)
    # Gradients stop at the relaxed weights, so that every pass gives its memory back before the next.
    wanted = [*alpha.parameters(), *weights.values(), *ahead.values()]
    found = torch.autograd.grad(total, wanted, materialize_grads=True)
    direct, relaxed_gradients = list(found[: len(relaxed)]), list(found[len(relaxed) : 2 * len(relaxed)])
    direction = dict(zip(ahead, mean(found[2 * len(relaxed) :]), strict=True))
    norm = torch.stack([torch.linalg.vector_norm(part) for part in direction.values()]).norm()
    # A direction of nothing has no length to divide by, and needs none: both sides are then the same.
    eps = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    sides = []
    for sign in (1, -1):
        moved = {name: value.detach() + sign * eps * direction[name] for name, value in parameters.items()}
        sides.append(torch.autograd.grad(loss(moved, training, weights), list(weights.values()), materialize_grads=True))
    for gradient, above, below in zip(relaxed_gradients, *sides, strict=True):
        gradient -= xi * (above - below) / (2 * eps)
    through = torch.autograd.grad(list(relaxed.values()), list(alpha.parameters()), relaxed_gradients)
    return add_gradient(alpha, [own + more for own, more in zip(direct, through, strict=True)], parts)


def _mean_gradient(loss: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, mean(found), strict=True))
