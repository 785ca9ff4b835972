"""How far around an output pixel a network looks at its input."""

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
from sr_nas.inference.prepared import quickest
from sr_nas.runs.device import Precision, autocast, check_precision

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


# MERGED sr_nas.inference.tiles: How large tiles may be for the network to stay within a bound of memory.


ACTIVATION_BYTES = 2**30
"""Activations a network may hold on the CPU. With PyTorch itself, the workspaces of its convolutions and an output of 80
megapixels while it is encoded, a process stays within 4 GB."""
SMALLEST_TILE = 32
"""Below, the overlap is all that tiles hold."""
SMALL = 256 * 256
"""Images of up to so many pixels are never cut; no network of this kind takes 16 kB a pixel."""


def fitting_tile(network: nn.Module, size: tuple[int, int], device: torch.device | str) -> int | None:
    """Return the side of the largest tiles that fit :data:`ACTIVATION_BYTES`, ``None`` where the whole image does.

    It depends on the network and the image alone, so that every machine cuts an image in the same way. An accelerator
    is asked for the whole image: it says so when its memory does not suffice, while the CPU's operating system promises
    memory that it does not have, and then ends the process.

    Args:
        network: takes [1, 3, h, w].
        size: (height, width) of the LR image.
        device: where the network will run.
    """
    height, width = size
    if torch.device(device).type != "cpu" or height * width <= SMALL:
        return None
    at = 256
    pixels = ACTIVATION_BYTES * at * at // peak_activation_bytes(network, (at, at))
    if height * width <= pixels:
        return None
    side = max(SMALLEST_TILE, math.isqrt(pixels) - 2 * receptive_radius(network))
    return side if side < max(size) else None


# MERGED sr_nas.inference.tiles: x8 self-ensemble: the network on the eight flips and transpositions of an
# image, averaged (Lim et al. 2017, section 3.3).


FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))


def self_ensemble(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean of the network's eight outputs for ``[N, C, h, w]``, each turned back; float32."""
    total = None
    for flips, transposed in product(FLIPS, (False, True)):
        turned = x.flip(flips)
        y = network(turned.transpose(2, 3) if transposed else turned)
        y = (y.transpose(2, 3) if transposed else y).flip(flips).float()
        total = y if total is None else total.add_(y)
    assert total is not None
    return total.div_(8)


# MERGED sr_nas.inference.tiles: One image through a network, whole or in tiles.


Read = Callable[[slice, slice], Tensor]
"""(rows, columns) of the LR image -> [1, 3, h, w], float32 in 0..1, on the CPU."""
Write = Callable[[slice, slice, Tensor], None]
"""Takes (rows, columns) of the SR image and its pixels there, [1, 3, h, w], float32, on the CPU, not clipped."""


class NonFiniteOutput(UserError):
    """A network that gives NaN or infinity."""


def upscale(
    network: nn.Module,
    lr: Tensor,
    *,
    tile: int | None = None,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
) -> Tensor:
    """Upscale one LR image.

    In tiles, the image and the output stay on the CPU, and the device holds one tile at a time. Each tile is cut with
    as many pixels around it as the network sees (:func:`~sr_nas.inference.tiles.receptive_radius`), fewer at the
    border of the image, where it meets the network's own padding as the whole image would. The result is therefore
    that of the whole image, to float rounding - except for a network that
    :func:`~sr_nas.inference.tiles.pools_globally`: its statistics are those of each tile, so that its output
    differs from that of the whole image, and the more the smaller the tiles; the caller warns.

    Args:
        network: maps [1, 3, h, w] to [1, 3, s h, s w], s = ``network.scale``. It is moved to the device and runs in eval
            mode, on the CPU where it pays as :func:`~sr_nas.inference.prepared.prepared` makes it; afterwards its modules are
            in the modes they were in.
        lr: [1, 3, H, W], float32 in 0..1, on the CPU.
        tile: side of the tiles in LR pixels, without what is cut around them; ``None``: the whole image at once.
        device: where the network runs.
        precision: see :data:`~sr_nas.runs.device.Precision`.
        ensemble: average over the eight flips and transpositions of the image, or of each tile, in eight times the time.

    Returns:
        [1, 3, s H, s W], float32, on the CPU, not clipped.

    Raises:
        UserError: a tile below 1, a precision the device lacks, or an output that is not finite.
    """
    height, width = lr.shape[2:]
    scale = cast(int, network.scale)
    sr = lr.new_empty((*lr.shape[:2], scale * height, scale * width))

    def write(rows: slice, columns: slice, pixels: Tensor) -> None:
        sr[..., rows, columns] = pixels

    run_in_tiles(
        network,
        (height, width),
        lambda rows, columns: lr[..., rows, columns],
        write,
        tile=tile,
        device=device,
        precision=precision,
        ensemble=ensemble,
    )
    return sr


def run_in_tiles(
    network: nn.Module,
    size: tuple[int, int],
    read: Read,
    write: Write,
    *,
    tile: int | None,
    device: torch.device | str,
    precision: Precision,
    ensemble: bool,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Upscale an image of ``size`` (height, width) that is read and written in pieces, so that no one holds it as floats.

    Args:
        network: see :func:`upscale`; so are ``tile``, ``device``, ``precision`` and ``ensemble``, and what is raised.
        size: (height, width) of the LR image.
        read: gives a piece of the LR image.
        write: takes a piece of the SR image; the pieces cover it once.
        progress: called after each tile with the share of the image that is done, up to 1.
    """
    if tile is not None and tile < 1:
        raise UserError(f"the tile must be at least 1 pixel, not {tile}.")
    device = torch.device(device)
    check_precision(device, precision)
    network.to(device)
    height, width = size
    # Elsewhere a network runs as it is: nothing was measured to gain there.
    prepares = device.type == "cpu" and precision == "fp32"
    run = quickest(network, height * width * (8 if ensemble else 1)) if prepares else network
    scale, radius = cast(int, network.scale), 0 if tile is None else receptive_radius(network)
    side = max(size) if tile is None else tile
    corners = list(product(range(0, height, side), range(0, width, side)))
    with _eval_mode(network), torch.inference_mode(), autocast(device, precision):
        for done, (top, left) in enumerate(corners, start=1):
            bottom, right = min(top + side, height), min(left + side, width)
            above, before = max(top - radius, 0), max(left - radius, 0)
            lr = read(slice(above, min(bottom + radius, height)), slice(before, min(right + radius, width))).to(device)
            sr = self_ensemble(run, lr) if ensemble else run(lr)
            rows = slice(scale * (top - above), scale * (bottom - above))
            columns = slice(scale * (left - before), scale * (right - before))
            pixels = sr[..., rows, columns].float().cpu()
            if not pixels.sum().isfinite():
                advice = "use fp32" if precision == "fp16" else "its weights are damaged or have diverged"
                raise NonFiniteOutput(f"the network's output in {precision} is not finite: {advice}.")
            write(slice(scale * top, scale * bottom), slice(scale * left, scale * right), pixels)
            if progress is not None:
                progress(done / len(corners))


def tile_count(size: tuple[int, int], tile: int | None) -> int:
    """Return in how many tiles an image of ``size`` (height, width) is cut; 1 for ``None``."""
    return 1 if tile is None else -(-size[0] // tile) * -(-size[1] // tile)


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
