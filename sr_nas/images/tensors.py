"""Pixels <-> the tensors of a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn HxWxC uint8 or uint16 into [1, C, H, W], float32 in 0..1 (divided by 255 or 65535)."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    return torch.from_numpy(planes).div_(np.iinfo(pixels.dtype).max)


def to_pixels(output: Tensor, dtype: np.dtype | type) -> np.ndarray:
    """Turn [1, C, H, W] into HxWxC of an unsigned integer ``dtype``: clipped to 0..1, scaled, rounded half to even."""
    levels = output[0].clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy().astype(dtype))
