"""Depthwise-separable candidates without a BatchNorm as one sum, of which nothing but the input is kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.ops.depthwise import fast_gradients
from sr_nas.ops.differentiable import gradients
from sr_nas.ops.fused_forms import Form

Tensors = Sequence[Tensor | None]


class Join:
    """A weighted sum of candidates whose last stages are separable.

    Their halves, which are what the last pointwise convolutions read, are cheap beside the memory that they take, and so the
    backward pass computes them again.

    Args:
        places: of the candidates' weights among those of the mixed operation.
        forms: theirs.
    """

    def __init__(self, places: Sequence[int], forms: Sequence[Form]) -> None:
        self.places, self.forms = list(places), list(forms)

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """Sum up.

        Args:
            x: ``[N, C_in, H, W]``.
            weights: of all candidates of the mixed operation.
        """
        own = weights[self.places].unbind()
        inner, kernels, bias = [], [], None
        for weight, form in zip(own, self.forms, strict=True):
            *before, kernel, offset = [tensor for stage in form.stages for tensor in stage.tensors()]
            inner += before
            assert kernel is not None
            kernels.append((weight * kernel).flatten(1))
            if offset is not None:
                bias = weight * offset if bias is None else bias + weight * offset
        if fast_gradients(x):
            result: Tensor = _Join.apply(self, x, torch.stack(kernels), *inner)
        else:
            result = _product(self.halves(x, inner), torch.stack(kernels))
        return result if bias is None else result + bias[:, None, None]

    def halves(self, x: Tensor, tensors: Tensors) -> list[Tensor]:
        """What the last pointwise convolutions read; ``tensors`` are those of all other convolutions."""
        rest, found = list(tensors), []
        rectified = F.relu(x) if any(form.stages[0].relu for form in self.forms) else x
        for form in self.forms:
            h = rectified if form.stages[0].relu else x
            for stage, following in pairwise(form.stages):
                h = stage.run(h, [rest.pop(0) for _ in stage.tensors()])
                h = F.relu(h) if following.relu else h
            found.append(form.stages[-1].run_first(h, [rest.pop(0), rest.pop(0)]))
        return found


def _product(halves: Sequence[Tensor], kernels: Tensor) -> Tensor:
    """``sum_i kernels_i halves_i`` at every pixel by differentiable operations alone; what the fast way must equal."""
    return F.conv2d(torch.cat(list(halves), dim=1), torch.cat(list(kernels), dim=1)[..., None, None])


class _Join(torch.autograd.Function):
    """Input, kernels ``[halves, C_out, C]`` and the tensors that the halves are made with -> the sum."""

    @staticmethod
    def forward(ctx: Any, join: Join, x: Tensor, kernels: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.join = join
        ctx.save_for_backward(x, kernels, *tensors)
        first, *rest = join.halves(x, tensors)
        total = torch.bmm(kernels[0].expand(len(x), -1, -1), first.flatten(2))
        for kernel, half in zip(kernels[1:], rest, strict=True):
            total.baddbmm_(kernel.expand(len(x), -1, -1), half.flatten(2))
        return total.unflatten(2, x.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, kernels, *tensors = ctx.saved_tensors
        join: Join = ctx.join
        if torch.is_grad_enabled():
            result = _product(join.halves(x, tensors), kernels)
            return None, *gradients([result], [x, kernels, *tensors], [grad])
        inputs = [None if one is None else one.detach().requires_grad_(one.requires_grad) for one in (x, *tensors)]
        first, *rest = inputs
        assert first is not None
        with torch.enable_grad():
            halves = join.halves(first, rest)
        flat = grad.flatten(2)
        of_kernels = torch.stack([torch.bmm(flat, half.detach().flatten(2).mT).sum(0) for half in halves])
        of_halves = [torch.bmm(kernel.mT.expand(len(x), -1, -1), flat).unflatten(2, x.shape[2:]) for kernel in kernels]
        of_x, *others = gradients(halves, inputs, of_halves, create_graph=False)
        return None, of_x, of_kernels, *others
