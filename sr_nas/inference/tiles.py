"""One image through a network, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.inference.ensemble import self_ensemble
from sr_nas.inference.prepared import quickest
from sr_nas.inference.receptive import receptive_radius
from sr_nas.runs.precision import Precision, autocast, check_precision

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
    as many pixels around it as the network sees (:func:`~sr_nas.inference.receptive.receptive_radius`), fewer at the
    border of the image, where it meets the network's own padding as the whole image would. The result is therefore
    that of the whole image, to float rounding - except for a network that
    :func:`~sr_nas.inference.receptive.pools_globally`: its statistics are those of each tile, so that its output
    differs from that of the whole image, and the more the smaller the tiles; the caller warns.

    Args:
        network: maps [1, 3, h, w] to [1, 3, s h, s w], s = ``network.scale``. It is moved to the device and runs in eval
            mode, on the CPU where it pays as :func:`~sr_nas.inference.prepared.prepared` makes it; afterwards its modules are
            in the modes they were in.
        lr: [1, 3, H, W], float32 in 0..1, on the CPU.
        tile: side of the tiles in LR pixels, without what is cut around them; ``None``: the whole image at once.
        device: where the network runs.
        precision: see :data:`~sr_nas.runs.precision.Precision`.
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
