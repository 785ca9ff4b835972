"""The gradient of alpha through the bilevel problem, first order and exact second order (DARTS, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sr_nas.contracts import Weights
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
) -> dict[str, Tensor]:
    """Add ``d objective(w - xi * dL_train/dw, alpha) / d alpha`` to the ``grad`` of alpha.

    With xi = 0 this is first order. Second order differentiates through the look-ahead step exactly,
    not by finite differences. Neither changes the supernet: BatchNorm statistics are updated on copies and dropped.

    Args:
        space: the supernet.
        alpha: architecture parameters.
        relaxation: logits -> weights.
        objective: task, regulariser and cost.
        epoch: counted from 1, for lambda_e.
        validation: (input, target) that alpha is judged on.
        training: (input, target) of the look-ahead step.
        xi: learning rate of the look-ahead step; 0 takes none.

    Returns:
        The detached parts of the objective.
    """
    weights = alpha.relax(relaxation)
    buffers = {name: buffer.clone() for name, buffer in space.named_buffers()}
    state = dict(buffers)
    if xi != 0.0:
        state |= _look_ahead(space, buffers, weights, objective, training, xi)
    output = functional_call(space, state, (validation[0], weights))
    total, parts = objective(objective.task(output, validation[1]), alpha.tensors(), weights, epoch)
    parameters = list(alpha.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    return {name: part.detach() for name, part in parts.items()}


def _look_ahead(
    space: nn.Module, buffers: dict[str, Tensor], weights: Weights, objective: Objective, training: Batch, xi: float
) -> dict[str, Tensor]:
    parameters = dict(space.named_parameters())
    output = functional_call(space, {name: buffer.clone() for name, buffer in buffers.items()}, (training[0], weights))
    loss = objective.task(output, training[1])
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
    return {name: value - xi * gradient for (name, value), gradient in zip(parameters.items(), gradients, strict=True)}
