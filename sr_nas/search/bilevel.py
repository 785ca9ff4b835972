"""The gradient of alpha through the bilevel problem, first order and exact second order (DARTS, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sr_nas.contracts import Weights
from sr_nas.runs.distributed import mean
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective

Batch = tuple[Tensor, Tensor]


def alpha_gradient(
    space: nn.Module,
    alpha: Alpha,
    relaxation: Callable[[Tensor], Tensor],
    objective: Objective,
    epoch: int,
    validation: Batch,
    training: Batch,
    xi: float = 0.0,
    on_both: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Tensor]:
    """Add ``d objective(w - xi * dL_train/dw, alpha) / d alpha`` to the ``grad`` of alpha.

    With xi = 0 this is first order. Second order differentiates through the look-ahead step exactly,
    not by finite differences. Neither changes the supernet: BatchNorm statistics are updated on copies and dropped.

    Where several processes each hold a slice of the batches, the objective is the mean of theirs, and so is the training
    loss of the look-ahead step: the gradient is that of one process with the whole batches.

    Args:
        space: the supernet.
        alpha: architecture parameters.
        relaxation: logits -> weights.
        objective: task, regulariser and cost.
        epoch: counted from 1, for lambda_e.
        validation: (input, target) that alpha is judged on.
        training: (input, target) of the look-ahead step.
        xi: learning rate of the look-ahead step; 0 takes none.
        on_both: judge alpha on the training batch too, by the sum of the two task losses.
        autocast: makes the context that forward passes and task losses run in.

    Returns:
        The detached parts of the objective, means over the processes.
    """
    weights = alpha.relax(relaxation)
    buffers = {name: buffer.clone() for name, buffer in space.named_buffers()}
    state = dict(buffers)
    if xi != 0.0:
        state |= _look_ahead(space, buffers, weights, objective, training, xi, autocast)
    else:
        # As constants: operations with a backward pass of their own would else make gradients of weights that nobody asks for.
        state |= {name: parameter.detach() for name, parameter in space.named_parameters()}
    with autocast():
        task = objective.task(functional_call(space, state, (validation[0], weights)), validation[1])
        if on_both:
            task = task + objective.task(functional_call(space, state, (training[0], weights)), training[1])
    total, parts = objective(task, alpha.by_label(), weights, epoch)
    return add_gradient(alpha, torch.autograd.grad(total, list(alpha.parameters())), parts)


def add_gradient(alpha: Alpha, gradients: Sequence[Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the mean of the processes' gradients to the ``grad`` of alpha; return the means of the parts, detached."""
    parameters = list(alpha.parameters())
    found = mean([*gradients, *(part.detach() for part in parts.values())])
    for parameter, gradient in zip(parameters, found, strict=False):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return dict(zip(parts, found[len(parameters) :], strict=True))


def _look_ahead(
    space: nn.Module,
    buffers: dict[str, Tensor],
    weights: Weights,
    objective: Objective,
    training: Batch,
    xi: float,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, Tensor]:
    parameters = dict(space.named_parameters())
    copies = {name: buffer.clone() for name, buffer in buffers.items()}
    with autocast():
        loss = objective.task(functional_call(space, copies, (training[0], weights)), training[1])
    gradients = mean(torch.autograd.grad(loss, list(parameters.values()), create_graph=True))
    return {name: value - xi * gradient for (name, value), gradient in zip(parameters.items(), gradients, strict=True)}


# MERGED sr_nas.search.bilevel: The gradient of alpha in second order by finite differences (DARTS,
# eq. 7 and 8): no graph of a graph, at any size.


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
