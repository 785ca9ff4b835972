"""How large tiles may be for the network to stay within a bound of memory."""

from __future__ import annotations

import math

import torch
from torch import nn

from sr_nas.complexity.memory import peak_activation_bytes
from sr_nas.inference.receptive import receptive_radius

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
