"""One image through a network, whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.inference.receptive import receptive_radius
from sr_nas.runs.device import autocast

Precision = Literal["fp32", "bf16"]
"""``"bf16"`` runs the network under bfloat16 autocast; the weights and the output stay float32."""


def upscale(
    network: nn.Module, lr: Tensor, *, tile: int | None = None, device: torch.device | str, precision: Precision = "fp32"
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
            mode; afterwards its modules are in the modes they were in.
        lr: [1, 3, H, W], float32 in 0..1, on the CPU.
        tile: side of the tiles in LR pixels, without what is cut around them; ``None``: the whole image at once.
        device: where the network runs.
        precision: see :data:`Precision`.

    Returns:
        [1, 3, s H, s W], float32, on the CPU, not clipped.

    Raises:
        UserError: a tile below 1.
    """
    if tile is not None and tile < 1:
        raise UserError(f"the tile must be at least 1 pixel, not {tile}.")
    device = torch.device(device)
    network.to(device)
    with _eval_mode(network), torch.inference_mode(), autocast(device, precision == "bf16"):
        if tile is None:
            return network(lr.to(device)).float().cpu()
        return _in_tiles(network, lr, tile, device)


def _in_tiles(network: nn.Module, lr: Tensor, tile: int, device: torch.device) -> Tensor:
    scale, radius = cast(int, network.scale), receptive_radius(network)
    height, width = lr.shape[2:]
    sr = lr.new_empty((*lr.shape[:2], scale * height, scale * width))
    for top, left in product(range(0, height, tile), range(0, width, tile)):
        bottom, right = min(top + tile, height), min(left + tile, width)
        above, before = max(top - radius, 0), max(left - radius, 0)
        patch = network(lr[..., above : bottom + radius, before : right + radius].to(device))
        inner = patch[..., scale * (top - above) : scale * (bottom - above), scale * (left - before) : scale * (right - before)]
        sr[..., scale * top : scale * bottom, scale * left : scale * right] = inner.float().cpu()
    return sr


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
