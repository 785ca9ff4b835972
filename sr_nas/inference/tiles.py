"""One image through a network, whole or in tiles that bound the memory it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.errors import UserError
from sr_nas.runs.device import Precision, autocast, check_precision

ACTIVATION_BYTES = 2**30
"""Budget for the activations of a tile on the CPU. With PyTorch itself, the workspaces of its convolutions and an output of 80
megapixels while it is encoded, a process then stays within 4 GB."""
SMALLEST_TILE = 32
"""Side in LR pixels; smaller tiles would consist mostly of overlap."""
ALWAYS_WHOLE = 256 * 256
"""LR pixels up to which an image is never cut: no network of this kind takes 16 kB per pixel."""
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
POOLING = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.GroupNorm, nn.InstanceNorm2d)


class NonFiniteOutput(UserError):
    """The network's output contains NaN or infinity."""


def tile_overlap(network: nn.Module) -> int:
    """Return how many LR pixels around a tile its output may depend on: an upper bound.

    It is the sum over all convolutions of dilation * (kernel - 1) / 2, rounded up: exact for a chain of stride 1, too large for
    parallel branches. A network with layers that are no ``nn.Conv2d``, or that run several times, states its overlap in an
    attribute ``tile_overlap``.
    """
    # Not the exact receptive field: with attention, as in IMDN and DLSR, that is the whole image, while tiles need the reach of
    # the convolutions alone.
    stated = getattr(network, "tile_overlap", None)
    if isinstance(stated, int):
        return stated
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return sum(max((d * (k - 1) + 1) // 2 for d, k in zip(c.dilation, c.kernel_size, strict=True)) for c in convolutions)


def pools_globally(network: nn.Module) -> bool:
    """Tell whether an output pixel depends on more than its surroundings, so that tiles only approximate the whole image.

    True where a module computes statistics over its whole input (it says so by an attribute ``pools_globally``, or is one of
    PyTorch's that do), or where a convolution has a stride, whose grid starts at the corner of each tile.
    """
    return any(
        getattr(module, "pools_globally", False) is True
        or isinstance(module, POOLING)
        or (isinstance(module, nn.Conv2d) and max(module.stride) > 1)
        for module in network.modules()
    )


def fitting_tile(network: nn.Module, size: tuple[int, int], device: torch.device | str) -> int | None:
    """Return the side of the largest tiles whose activations fit :data:`ACTIVATION_BYTES`, ``None`` if the whole image fits.

    On a CPU the result depends on the network and the image size alone, so every machine cuts an image in the same way. On an
    accelerator it is always ``None``: there running out of memory is an error that can be caught, while Linux promises memory
    that it does not have and then kills the process.

    ``size`` is (height, width) of the LR image.
    """
    height, width = size
    if torch.device(device).type != "cpu" or height * width <= ALWAYS_WHOLE:
        return None
    probe = 256
    # A network that another runtime executes states how much more memory than PyTorch's it takes.
    activations = peak_activation_bytes(network, (probe, probe)) * getattr(network, "memory_factor", 1)
    pixels = ACTIVATION_BYTES * probe**2 // activations
    side = max(SMALLEST_TILE, math.isqrt(pixels) - 2 * tile_overlap(network))
    return side if height * width > pixels and side < max(size) else None


def tile_count(size: tuple[int, int], tile: int | None) -> int:
    """Return the number of tiles of an image of ``size`` (height, width); 1 for ``tile=None``."""
    return 1 if tile is None else -(-size[0] // tile) * -(-size[1] // tile)


def self_ensemble(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean of the outputs for the eight flips and transpositions of ``[N, C, h, w]``, each undone; float32.

    This is the x8 "geometric self-ensemble" of Lim et al. 2017 (EDSR), section 3.3.
    """
    total = None
    for flips, transposed in product(FLIPS, (False, True)):
        flipped = x.flip(flips)
        y = network(flipped.transpose(2, 3) if transposed else flipped)
        y = (y.transpose(2, 3) if transposed else y).flip(flips).float()
        total = y if total is None else total.add_(y)
    assert total is not None
    return total.div_(8)


def upscale_tiles(
    network: nn.Module,
    size: tuple[int, int],
    read: Callable[[slice, slice], Tensor],
    *,
    tile: int | None = None,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Upscale an image piece by piece; the device holds one tile at a time.

    Each tile is cut with :func:`tile_overlap` pixels around it, fewer at the border of the image, where the network pads as it
    would the whole image. The result equals that of the whole image to float rounding, except for a network that
    :func:`pools_globally`: its statistics are those of each tile, and the caller warns.

    Args:
        network: maps [1, 3, h, w] to [1, 3, s h, s w], s = ``network.scale``. It is moved to the device, runs in eval mode, and
            has its modules' modes back afterwards.
        size: (height, width) of the LR image.
        read: (rows, columns) of the LR image -> [1, 3, h, w], float32 in 0..1, on the CPU.
        tile: side of the tiles in LR pixels, without overlap; ``None``: the whole image at once.
        ensemble: average over eight flips and transpositions of each tile, in eight times the time.

    Yields:
        (rows, columns, pixels): a place in the SR image and its pixels, [1, 3, h, w], float32, on the CPU, not clipped.

    Raises:
        UserError: a tile below 1, a precision the device lacks, or (:class:`NonFiniteOutput`) NaN or infinity in the output.
    """
    if tile is not None and tile < 1:
        raise UserError(f"the tile must be at least 1 pixel, not {tile}.")
    device = torch.device(device)
    check_precision(device, precision)
    network.to(device)
    (height, width), scale = size, cast(int, network.scale)
    side, overlap = (max(size), 0) if tile is None else (tile, tile_overlap(network))
    with _eval_mode(network):
        for top, left in product(range(0, height, side), range(0, width, side)):
            bottom, right = min(top + side, height), min(left + side, width)
            above, before = max(top - overlap, 0), max(left - overlap, 0)
            lr = read(slice(above, min(bottom + overlap, height)), slice(before, min(right + overlap, width))).to(device)
            # Entered per tile: between two tiles, the caller's code runs.
            with torch.inference_mode(), autocast(device, precision):
                sr = self_ensemble(network, lr) if ensemble else network(lr)
                rows = slice(scale * (top - above), scale * (bottom - above))
                columns = slice(scale * (left - before), scale * (right - before))
                pixels = sr[..., rows, columns].float().cpu()
            if not pixels.sum().isfinite():  # one reduction: NaN and infinity survive a sum
                advice = "use fp32" if precision == "fp16" else "its weights are damaged or have diverged"
                raise NonFiniteOutput(f"the network's output in {precision} is not finite: {advice}.")
            yield slice(scale * top, scale * bottom), slice(scale * left, scale * right), pixels


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
