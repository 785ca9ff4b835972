"""Images of every kind through a network that knows RGB only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sr_nas.errors import UserError
from sr_nas.images.files import to_pixels, to_tensor
from sr_nas.images.resize import imresize
from sr_nas.inference.tiles import run_in_tiles
from sr_nas.runs.device import Precision


def upscale_image(
    network: nn.Module,
    pixels: np.ndarray,
    *,
    tile: int | None = None,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
    outscale: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Upscale an image by a network, keeping its channels and depth.

    Grey goes through the network three times over, and the mean of the three outputs is kept. Alpha is upscaled by
    MATLAB's bicubic, apart from the colour. The output is clipped and rounded half to even, tile by tile, so that
    neither the image nor the output is ever held as floats.

    Args:
        network: see :func:`~sr_nas.inference.tiles.upscale`.
        pixels: HxWxC, uint8 or uint16; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
        tile: see :func:`~sr_nas.inference.tiles.upscale`; so are ``device``, ``precision`` and ``ensemble``.
        outscale: another scale than the network's, to which its rounded output is resized by MATLAB's bicubic.
        progress: called after each tile with the share of the image that is done, up to 1.

    Returns:
        round(s H) x round(s W) x C of the same dtype, at least 1x1; s = ``outscale``, by default ``network.scale``.

    Raises:
        UserError: an ``outscale`` that is not above 0 and finite, an output for which the memory does not suffice, and what
            :func:`~sr_nas.inference.tiles.upscale` raises.
    """
    height, width, channels = pixels.shape
    scale = cast(int, network.scale)
    target = output_size((height, width), scale if outscale is None else outscale)
    has_alpha = channels in (2, 4)
    colour = pixels[..., :-1] if has_alpha else pixels
    with _room_for(*target):
        # Asked for before the network runs, perhaps for hours; untouched, it takes no memory yet.
        np.empty((*target, channels), pixels.dtype)
    with _room_for(scale * height, scale * width):
        upscaled = np.empty((scale * height, scale * width, colour.shape[2]), pixels.dtype)

    def read(rows: slice, columns: slice) -> Tensor:
        return to_tensor(colour[rows, columns]).expand(-1, 3, -1, -1)

    def write(rows: slice, columns: slice, sr: Tensor) -> None:
        upscaled[rows, columns] = to_pixels(sr.mean(dim=1, keepdim=True) if colour.shape[2] == 1 else sr, pixels.dtype)

    run_in_tiles(
        network,
        (height, width),
        read,
        write,
        tile=tile,
        device=device,
        precision=precision,
        ensemble=ensemble,
        progress=progress,
    )
    if target != upscaled.shape[:2]:
        upscaled = imresize(upscaled, *target)
    return np.concatenate([upscaled, imresize(pixels[..., -1:], *target)], axis=2) if has_alpha else upscaled


@contextmanager
def _room_for(height: int, width: int) -> Iterator[None]:
    # An error of its own, since smaller tiles would not help.
    try:
        yield
    except (MemoryError, OverflowError, ValueError) as error:  # NumPy's words for too large, far too large, and absurd
        raise UserError(f"the memory does not suffice for an output of {width}x{height} pixels.") from error


def output_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (round(scale H), round(scale W)), at least 1 each.

    Raises:
        UserError: a scale that is not above 0 and finite.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"images are scaled by a number above 0, not by {scale}.")
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def upscaler(
    network: nn.Module,
    *,
    tile: int | None = None,
    device: torch.device | str,
    precision: Precision = "fp32",
    ensemble: bool = False,
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return the network as a function (LR HxWxC, scale) -> SR (s H)x(s W)xC, the form in which upscalers are scored.

    The function raises UserError for another scale than the network's.
    """

    def upscale_by_network(lr: np.ndarray, scale: int) -> np.ndarray:
        if scale != network.scale:
            raise UserError(f"the network upscales by {network.scale}, not by {scale}.")
        return upscale_image(network, lr, tile=tile, device=device, precision=precision, ensemble=ensemble)

    return upscale_by_network
