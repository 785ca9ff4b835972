"""Receptive field of a network, measured by how far NaN spreads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

# Multiples of 24, so that strides and pixel shuffles come out whole; the ends are wider than any one layer looks.
LENGTHS, THICKNESS, END = (192, 576, 1344), 24, 48


def receptive_field(network: nn.Module, channels: int = 3, most: int | None = None) -> int | None:
    """Return how many LR pixels, from the first to the last, the output of one LR pixel depends on, in height or width.

    The larger of the two counts, and the s x s output pixels of an LR pixel are taken together.

    NaN spreads along every dependency whatever the weights (0 * NaN is NaN; ReLU, maximum and clamping keep it). Both ends of
    a long image are NaN, and how far past an end outputs are NaN is the reach to that side.

    The result is exact for networks without strides. Others have another field at every place, and one that resamples, as
    RFDN's Enhanced Spatial Attention, at every image size: there it is good to one step of the coarsest grid per such layer.

    Args:
        network: maps ``[N, channels, H, W]`` to ``[N, any, s*H, s*W]`` with a whole s; left as it is.
        channels: input channels.
        most: longest image to look at, in pixels, at least 192; by default 1344.

    Returns:
        Pixels, 0 where the output does not depend on the input; ``None`` where it depends on the whole image, as behind a
        global pooling, or on all but 96 pixels of the longest.

    Raises:
        ValueError: an output that is no whole multiple of the input's size, or NaN without a NaN in the input.
    """
    # Doubles, because PyTorch's fast convolutions are of single precision and compute in blocks, so that one NaN spoils its
    # neighbours. Most become poolings, but not transposed ones.
    network = copy.deepcopy(network).to("cpu", torch.float64).eval()
    with torch.no_grad(), _ConvolutionsAsPoolings():
        fields = [_field(network, channels, vertical, most or LENGTHS[-1]) for vertical in (False, True)]
    return None if None in fields else max(field for field in fields if field is not None)


def _field(network: nn.Module, channels: int, vertical: bool, most: int) -> int | None:
    for length in (length for length in LENGTHS if length <= most):
        image = torch.full((1, channels, THICKNESS, length), 0.5, dtype=torch.float64)
        if length == LENGTHS[0] and _nan_columns(network, image, vertical).any():
            raise ValueError(
                f"{type(network).__name__} gives NaN for an image without NaN: its receptive field cannot be measured"
            )
        image[..., :END] = image[..., -END:] = torch.nan
        spoiled = _nan_columns(network, image, vertical)
        scale, rest = divmod(len(spoiled), length)
        if rest or not scale:
            raise ValueError(f"{type(network).__name__} makes {len(spoiled)} pixels of {length}, no whole multiple")
        clean = (~spoiled).nonzero().flatten()
        if len(clean):
            # Between the ends and the outermost clean outputs lies what depends on the ends.
            back, ahead = int(clean[0]) - scale * END, scale * (length - END) - 1 - int(clean[-1])
            return max(math.ceil(back / scale) + math.ceil(ahead / scale) + 1, 0)
    return None


def _nan_columns(network: nn.Module, image: torch.Tensor, vertical: bool) -> torch.Tensor:
    """Return which places along the image have a NaN in the output, bool ``[s * length]``."""
    y = network(image.mT if vertical else image)
    return (y.mT if vertical else y).isnan().flatten(0, 2).any(0)


class _ConvolutionsAsPoolings(TorchDispatchMode):
    """Replaces the sum of a convolution by a maximum: NaN lands in the same places, and thousands of times sooner."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten.convolution.default or args[6] or args[0].ndim != 4:  # args[6]: transposed
            return func(*args, **(kwargs or {}))
        x, weight, _, stride, (vertical, horizontal), dilation, _, _, groups = args
        # All outputs of a group depend on all of its inputs.
        pooled = F.pad(x.unflatten(1, (groups, -1)).sum(2), (horizontal, horizontal, vertical, vertical))
        for axis, (kernel, step, gap) in enumerate(zip(weight.shape[2:], stride, dilation, strict=True)):
            if (kernel, step) != (1, 1):
                window, steps = ((kernel, 1), (step, 1)) if axis == 0 else ((1, kernel), (1, step))
                pooled = F.max_pool2d(pooled, window, steps, dilation=gap)
        # Only NaN matters, and numbers that grow from layer to layer would overflow.
        return (0 * pooled + 0.5).repeat_interleave(weight.shape[0] // groups, dim=1)
