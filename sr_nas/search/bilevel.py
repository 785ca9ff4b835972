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
