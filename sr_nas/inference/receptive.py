"""How far around an output pixel a network looks at its input."""

from __future__ import annotations

from torch import nn

_OVER_THE_WHOLE_IMAGE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm, nn.InstanceNorm2d)


def receptive_radius(network: nn.Module) -> int:
    """Return an upper bound, in LR pixels, of the distance from an output pixel to any input pixel it depends on.

    It is the sum over all convolutions of dilation * (kernel - 1) / 2, rounded up: right for a chain of convolutions of
    stride 1 and too large for parallel branches or for convolutions behind the upscaling. It misses what is no
    ``nn.Conv2d`` and counts a module that runs several times once; such a network states its own radius in an
    attribute ``receptive_radius``. It does not hold where :func:`pools_globally`.
    """
    stated = getattr(network, "receptive_radius", None)
    if isinstance(stated, int):
        return stated
    reach = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            reach += max(
                (dilation * (kernel - 1) + 1) // 2 for dilation, kernel in zip(module.dilation, module.kernel_size, strict=True)
            )
    return reach


def pools_globally(network: nn.Module) -> bool:
    """Tell whether an output pixel depends on more than its surroundings, so that tiles cannot equal the whole image.

    So it is where a module takes statistics over its whole input (it says so by an attribute ``pools_globally``, or is
    one of PyTorch's that do), or where a convolution has a stride, whose grid starts at the corner of each tile.
    """
    return any(
        getattr(module, "pools_globally", False) is True
        or isinstance(module, _OVER_THE_WHOLE_IMAGE)
        or (isinstance(module, nn.Conv2d) and max(module.stride) > 1)
        for module in network.modules()
    )
