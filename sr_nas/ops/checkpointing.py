"""Parts of a network that keep their inputs alone and are computed again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def checkpointed(part: nn.Module, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return ``run(part, *inputs)``, whose intermediate results are computed again when gradients are asked for.

    The second time it uses the parameters of the first, which :func:`torch.func.functional_call` may have put in the place of
    the part's own for the first pass alone, and leaves its buffers as they are: BatchNorm statistics are updated once.

    Args:
        part: a part of a network.
        run: what is done with it; whatever it reads that needs a gradient is among the inputs or in the part.
        inputs: tensors.
    """
    if not torch.is_grad_enabled():
        return run(part, *inputs)
    caller = _Caller(part, run)
    parameters, buffers = dict(caller.named_parameters()), dict(caller.named_buffers())
    passes = 0

    def call(*inputs: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        own = buffers if passes == 1 else {name: buffer.clone() for name, buffer in buffers.items()}
        return cast(Tensor, functional_call(caller, parameters | own, inputs))

    result: Tensor = checkpoint(call, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


class _Caller(nn.Module):
    def __init__(self, part: nn.Module, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.part, self.run = part, run
        self.training = part.training

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(self.part, *inputs)
