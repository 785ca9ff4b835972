"""Backward passes as graphs, for functions whose own backward pass is no graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients(
    outputs: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    create_graph: bool = True,
) -> list[Tensor | None]:
    """Return the gradient of every input that needs one, 0, not nothing, where none depends on it.

    Args:
        outputs: computed of the inputs by differentiable operations.
        inputs: ``None`` where an input is left out.
        grads: of the outputs; ``None`` where nothing depends on one.
        create_graph: whether the gradients are differentiable themselves.
    """
    pairs = [
        (result, grad)
        for result, grad in zip(outputs, grads, strict=True)
        if result is not None and grad is not None and result.requires_grad
    ]
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    if not wanted or not pairs:
        return [None] * len(inputs)
    results, incoming = zip(*pairs, strict=True)
    found = iter(
        torch.autograd.grad(results, wanted, incoming, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in inputs]
