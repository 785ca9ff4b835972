"""Gradient of alpha in the bilevel problem: first order, second order exactly or by finite differences (DARTS, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from sr_nas.contracts import Weights
from sr_nas.runs.device import forked_rng
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective

Batch = tuple[Tensor, Tensor]
"""(input, target)."""

RADIUS = 0.01
"""Length of the finite-difference step in the weights, on either side (DARTS, section 2.3)."""


@dataclass(frozen=True)
class StepContext:
    """Everything that the gradient of alpha of one step is computed from.

    Attributes:
        relaxation: logits -> weights, in this pass.
        epoch: counted from 1, for lambda_e.
        validation: batch that alpha is evaluated on.
        training: batch of the look-ahead step.
        xi: learning rate of the look-ahead step; 0 is first order.
        drift: name of a parameter -> what the look-ahead adds to its gradient; empty for nothing.
        on_both: evaluate alpha on the training batch too, by the sum of the two task losses.
        autocast: context of forward passes and task losses.
        average: mean over the processes that each hold a slice of the batches, differentiable; ``list`` for one process.
    """

    space: nn.Module
    alpha: Alpha
    relaxation: Callable[[Tensor], Tensor]
    objective: Objective
    epoch: int
    validation: Batch
    training: Batch
    xi: float = 0.0
    drift: Mapping[str, Tensor] = field(default_factory=dict)
    on_both: bool = False
    autocast: AbstractContextManager[Any] = field(default_factory=nullcontext)
    average: Callable[[Sequence[Tensor]], list[Tensor]] = list

    def task(self, parameters: Mapping[str, Tensor], batch: Batch, weights: Weights) -> Tensor:
        """Task loss of the supernet with the given parameters."""
        # Copies: an alpha step must not move the BatchNorm statistics, which belong to the weight step.
        buffers = {name: buffer.clone() for name, buffer in self.space.named_buffers()}
        with self.autocast:
            output = functional_call(self.space, {**buffers, **parameters}, (batch[0], weights))
            return self.objective.task(output, batch[1])

    def training_loss(self, weights: Weights) -> Tensor:
        """Task loss of the training batch, the mean over processes, with a gradient to the weights of candidates alone."""
        fixed = {name: parameter.detach() for name, parameter in self.space.named_parameters()}
        shared = dict(zip(weights, self.average(list(weights.values())), strict=True))  # equal, but their gradients are averaged
        return self.average([self.task(fixed, self.training, shared)])[0]

    def evaluate(self, parameters: Mapping[str, Tensor], weights: Weights) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of alpha and its parts, with the given parameters of the supernet."""
        task = self.task(parameters, self.validation, weights)
        if self.on_both:
            task = task + self.task(parameters, self.training, weights)
        return self.objective(task, self.alpha.by_label(), weights, self.epoch)

    def look_ahead(self, parameters: Mapping[str, Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the parameters after the look-ahead step."""
        return {
            name: value - self.xi * (gradient + self.drift[name] if self.drift else gradient)
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }

    def add_gradient(self, gradients: Sequence[Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the processes' mean gradient to the ``grad`` of alpha; return the means of the parts, detached."""
        parameters = list(self.alpha.parameters())
        means = self.average([*gradients, *(part.detach() for part in parts.values())])
        for parameter, gradient in zip(parameters, means, strict=False):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return dict(zip(parts, means[len(parameters) :], strict=True))


def momentum_and_decay(optimizer: Optimizer, space: nn.Module) -> dict[str, Tensor]:
    """Return name of a parameter -> what SGD adds to its gradient: momentum times the running step, and the weight decay."""
    settings, drift = optimizer.param_groups[0], {}
    for name, parameter in space.named_parameters():
        drift[name] = settings["weight_decay"] * parameter.detach()
        if (running := optimizer.state.get(parameter, {}).get("momentum_buffer")) is not None:
            drift[name] += settings["momentum"] * running
    return drift


def alpha_gradient(step: StepContext) -> dict[str, Tensor]:
    """Add ``d objective(w - xi * dL_train/dw, alpha) / d alpha`` to the ``grad`` of alpha; leave the supernet as it is.

    With xi = 0 this is first order. Second order differentiates through the look-ahead step exactly. With several processes, the
    gradient is that of one process with the whole batches.

    Returns:
        The detached parts of the objective, means over the processes.
    """
    weights = step.alpha.relax(step.relaxation)
    parameters: dict[str, Tensor] = dict(step.space.named_parameters())
    if step.xi == 0.0:
        # Detached, since operations with a backward pass of their own would otherwise compute unused gradients of weights.
        parameters = {name: parameter.detach() for name, parameter in parameters.items()}
    else:
        loss = step.task(parameters, step.training, weights)
        gradients = step.average(torch.autograd.grad(loss, list(parameters.values()), create_graph=True))
        parameters = step.look_ahead(parameters, gradients)
    total, parts = step.evaluate(parameters, weights)
    return step.add_gradient(torch.autograd.grad(total, list(step.alpha.parameters())), parts)


def alpha_gradient_by_differences(step: StepContext, radius: float = RADIUS) -> dict[str, Tensor]:
    """Approximate second-order gradient of alpha: finite differences in place of the mixed derivative (DARTS, eq. 8).

    With ``w' = w - xi * dL_train/dw`` and ``d = d objective/dw'``, the mixed second derivative of the training loss times d is
    taken for ``(dL_train(w + eps d)/d alpha - dL_train(w - eps d)/d alpha) / (2 eps)``, ``eps = radius / |d|``. Two more passes
    over the training batch stand in for the second derivative, and no pass needs more memory than one of first order.

    Where the network is smooth, the error falls with the square of the radius. Differences see the kinks of rectifiers and of an
    absolute error, which a derivative at one point does not. Within a smaller radius there are fewer, and each counts more: the
    error is as large as what second order adds, until there is none (docs/method.md).
    """
    relaxed = step.alpha.relax(step.relaxation)
    # Gradients stop at the relaxed weights, so that every pass frees its memory before the next.
    weights = {label: weight.detach().requires_grad_() for label, weight in relaxed.items()}
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in step.space.named_parameters()}
    loss = step.task(parameters, step.training, weights)
    descent = step.average(torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True))
    ahead = {name: value.detach().requires_grad_() for name, value in step.look_ahead(parameters, descent).items()}

    total, parts = step.evaluate(ahead, weights)
    inputs = [*step.alpha.parameters(), *weights.values(), *ahead.values()]
    gradients, count = torch.autograd.grad(total, inputs, materialize_grads=True), len(weights)
    of_alpha, of_weights, direction = gradients[:count], gradients[count : 2 * count], step.average(gradients[2 * count :])

    norm = torch.stack([torch.linalg.vector_norm(part) for part in direction]).norm()
    # A direction of length 0 would divide by 0; any eps will do there, since both sides are the same.
    eps = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    sides = []
    for sign in (1, -1):
        moved = {
            name: value.detach() + sign * eps * part for (name, value), part in zip(parameters.items(), direction, strict=True)
        }
        # Both sides draw the same drop-path and noise: otherwise the difference would be that of what they draw.
        with forked_rng(norm.device, enabled=sign == 1):
            loss = step.task(moved, step.training, weights)
        sides.append(torch.autograd.grad(loss, list(weights.values()), materialize_grads=True))
    of_weights = tuple(
        gradient - step.xi * (above - below) / (2 * eps) for gradient, above, below in zip(of_weights, *sides, strict=True)
    )
    through = torch.autograd.grad(list(relaxed.values()), list(step.alpha.parameters()), of_weights)
    return step.add_gradient([direct + indirect for direct, indirect in zip(of_alpha, through, strict=True)], parts)
