"""Tensors through the loop over tiles, without rounding to pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sr_nas.inference.tiles import upscale_tiles


def upscale(network: nn.Module, lr: Tensor, **words: Any) -> Tensor:
    """Upscale [1, 3, H, W] to an output that is not clipped; the words are those of ``upscale_tiles``."""
    height, width = lr.shape[2:]
    sr = lr.new_empty((*lr.shape[:2], network.scale * height, network.scale * width))
    for rows, columns, pixels in upscale_tiles(network, (height, width), lambda rows, columns: lr[..., rows, columns], **words):
        sr[..., rows, columns] = pixels
    return sr
