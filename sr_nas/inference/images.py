"""Images of every kind through a network that knows RGB only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from sr_nas.errors import UserError
from sr_nas.images.resize import upscale_bicubic
from sr_nas.inference.quantise import to_pixels, to_tensor
from sr_nas.inference.tiles import Precision, upscale


def upscale_image(
    network: nn.Module, pixels: np.ndarray, *, tile: int | None = None, device: torch.device | str, precision: Precision = "fp32"
) -> np.ndarray:
    """Upscale an image by a network, keeping its channels and depth.

    Grey goes through the network three times over, and the mean of the three outputs is kept. Alpha is upscaled by
    MATLAB's bicubic, apart from the colour. The output is clipped and rounded half to even.

    Args:
        network: see :func:`~sr_nas.inference.tiles.upscale`.
        pixels: HxWxC, uint8 or uint16; C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
        tile: see :func:`~sr_nas.inference.tiles.upscale`; so are ``device`` and ``precision``.

    Returns:
        (s H)x(s W)xC of the same dtype, s = ``network.scale``.
    """
    has_alpha = pixels.shape[2] in (2, 4)
    colour = pixels[..., :-1] if has_alpha else pixels
    is_grey = colour.shape[2] == 1
    lr = to_tensor(colour).expand(-1, 3, -1, -1)
    sr = upscale(network, lr, tile=tile, device=device, precision=precision)
    upscaled = to_pixels(sr.mean(dim=1, keepdim=True) if is_grey else sr, pixels.dtype)
    if not has_alpha:
        return upscaled
    return np.concatenate([upscaled, upscale_bicubic(pixels[..., -1:], upscaled.shape[0] // pixels.shape[0])], axis=2)


def upscaler(
    network: nn.Module, *, tile: int | None = None, device: torch.device | str, precision: Precision = "fp32"
) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return the network as a function (LR HxWxC, scale) -> SR (s H)x(s W)xC, the form in which upscalers are scored.

    The function raises UserError for another scale than the network's.
    """

    def upscale_by_network(lr: np.ndarray, scale: int) -> np.ndarray:
        if scale != network.scale:
            raise UserError(f"the network upscales by {network.scale}, not by {scale}.")
        return upscale_image(network, lr, tile=tile, device=device, precision=precision)

    return upscale_by_network
