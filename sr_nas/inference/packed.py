"""Layers for inference on the CPU: oneDNN's convolutions, with what follows them in the same call.

PyTorch's own compiler runs convolutions by these calls (``torch.ops.mkldnn``). Weights are laid out once, as the library wants
them, and activations, sums and products are taken while an output is still in the cache. Tensors are channels_last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.attention import STRIDED_PATH_NEEDS, ContrastAwareChannelAttention, EnhancedSpatialAttention

Activation = tuple[str, float | None]
"""``("relu", None)``, ``("sigmoid", None)`` or ``("leaky_relu", slope)``."""

_PACKED_AT = 64
"""Side of the image for which weights are laid out; the layout hardly depends on it, and others work too."""


def is_available() -> bool:
    """Tell whether this PyTorch has the calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def is_packable(module: nn.Module) -> bool:
    """Tell whether a module is a convolution that :class:`Packed` can run."""
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


class Packed(nn.Module):
    """A convolution, then optionally a sum with another tensor, then optionally an activation.

    Args:
        convolution: :func:`is_packable`; left as it is.
        activation: what follows.
    """

    def __init__(self, convolution: nn.Conv2d, activation: Activation | None = None) -> None:
        super().__init__()
        weight = convolution.weight.detach()
        self.activation = activation
        self.padding, self.stride, self.dilation = (
            [int(number) for number in numbers] for numbers in (convolution.padding, convolution.stride, convolution.dilation)
        )
        self.groups = convolution.groups
        self.bias = None if convolution.bias is None else convolution.bias.detach().clone()
        size = [1, convolution.in_channels, _PACKED_AT, _PACKED_AT]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(), self.padding, self.stride, self.dilation, self.groups, size
        )

    def forward(self, x: Tensor, other: Tensor | None = None, inplace: bool = False) -> Tensor:
        """Map ``[N, C, H, W]``; ``other`` has the shape of the output, and is overwritten if ``inplace``."""
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if other is not None:
            return added(x, other, self.weight, self.bias, self.activation, geometry, inplace)
        name, value = self.activation or ("none", None)
        scalars = [] if value is None else [value]
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, name, scalars, "")
        return found


def added(
    x: Tensor,
    other: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation | None,
    geometry: Any,
    inplace: bool = False,
) -> Tensor:
    """Convolve ``x``, add ``other`` (``inplace``: to it) and activate."""
    name, value = activation or (None, None)
    # After a sum the library knows the ReLU alone.
    words = (weight, bias, *geometry, "add", 1.0, name if name == "relu" else None, [], "")
    y: Tensor
    if inplace:
        y = torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *words)
    else:
        y = torch.ops.mkldnn._convolution_pointwise.binary(x, other.contiguous(memory_format=torch.channels_last), *words)
    if name == "leaky_relu":
        return F.leaky_relu_(y, value)  # type: ignore[arg-type]
    return torch.sigmoid_(y) if name == "sigmoid" else y


class PackedJoin(nn.Module):
    """A 1x1 convolution of several tensors side by side, as a sum of one for each, which spares the copy.

    Args:
        convolution: of kernel 1 and one group.
        channels: of the tensors.
        activation: what follows.
    """

    def __init__(self, convolution: nn.Conv2d, channels: Sequence[int], activation: Activation | None = None) -> None:
        super().__init__()
        parts = convolution.weight.detach().split(list(channels), dim=1)
        self.parts = nn.ModuleList()
        for number, part in enumerate(parts):
            has_bias = number == 0 and convolution.bias is not None
            one = nn.Conv2d(part.shape[1], part.shape[0], 1, bias=has_bias)
            one.weight = nn.Parameter(part.contiguous(), requires_grad=False)
            if has_bias:
                one.bias = convolution.bias
            self.parts.append(Packed(one, activation if number == len(parts) - 1 else None))

    def forward(self, *tensors: Tensor) -> Tensor:
        """Map tensors of ``[N, C, H, W]``."""
        total: Tensor | None = None
        for part, x in zip(self.parts, tensors, strict=True):
            total = part(x, total, inplace=True)
        assert total is not None
        return total


class PackedContrastAttention(nn.Module):
    """Contrast-aware channel attention and the 1x1 convolution behind it: the gate scales the convolution's weights.

    Args:
        attention: left as it is.
        convolution: what reads its output.
    """

    pools_globally = True

    def __init__(self, attention: ContrastAwareChannelAttention, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.gate, self.weight, self.bias = attention.gate, convolution.weight.detach(), convolution.bias

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Map ``[N, C, H, W]``; ``other`` is added."""
        x = x.contiguous(memory_format=torch.channels_last)
        # The statistics of a BatchNorm: two passes, as exact as ``var`` and thirty times sooner.
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0) if len(x) == 1 else _each(x)
        gate = self.gate((variance.clamp_min(1e-12).sqrt() + mean).view(len(x), -1, 1, 1))
        if len(x) > 1:
            y = F.conv2d(x * gate, self.weight, self.bias)
            return y if other is None else y + other
        weight = self.weight * gate.view(1, -1, 1, 1)
        geometry = ([0, 0], [1, 1], [1, 1], 1)
        if other is not None:
            return added(x, other, weight, self.bias, None, geometry)
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *geometry, "none", [], "")
        return found


def _each(x: Tensor) -> tuple[Tensor, Tensor]:
    found = [torch.batch_norm_update_stats(image[None], None, None, 0.0) for image in x]
    return torch.stack([mean for mean, _ in found]), torch.stack([variance for _, variance in found])


class PackedSpatialAttention(nn.Module):
    """:class:`~sr_nas.ops.attention.EnhancedSpatialAttention` of packed convolutions.

    Args:
        attention: left as it is.
    """

    pools_globally = True

    def __init__(self, attention: EnhancedSpatialAttention) -> None:
        super().__init__()
        wide: Any = attention.wide
        first, _, second, _, third = wide
        self.reduce, self.skip, self.stride = Packed(attention.reduce), Packed(attention.skip), Packed(attention.stride)
        self.wide = nn.Sequential(Packed(first, ("relu", None)), Packed(second, ("relu", None)), Packed(third))
        self.expand = Packed(attention.expand, ("sigmoid", None))

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, ``[N, C, H, W]``."""
        height, width = x.shape[2:]
        reduced = self.reduce(x)
        missing = max(STRIDED_PATH_NEEDS - width, 0), max(STRIDED_PATH_NEEDS - height, 0)
        enough = F.pad(reduced, (0, missing[0], 0, missing[1]), mode="replicate") if any(missing) else reduced
        wide = self.wide(F.max_pool2d(self.stride(enough), kernel_size=7, stride=3))
        wide = F.interpolate(wide, (height, width), mode="bilinear", align_corners=False)
        return self.expand(self.skip(reduced, wide)).mul_(x)
