"""Attention blocks of super-resolution networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDED_PATH_NEEDS = 15
"""Pixels a side from which a 3x3 convolution of stride 2 leaves one window for a 7x7 pooling."""


class ContrastAwareChannelAttention(nn.Module):
    """Scale every channel by a gate computed from its standard deviation plus its mean over the whole image (IMDN, section 3.3).

    Args:
        channels: channels of the input and output.
        reduction: the gate's hidden layer has ``channels // reduction`` channels.
    """

    pools_globally = True

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, ``[N, C, H, W]``."""
        mean = F.adaptive_avg_pool2d(x, 1)
        # On the CPU, torch.var takes 15 times as long.
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        # The root's slope is infinite at 0, where a constant channel would turn every gradient into NaN.
        contrast = variance.clamp_min(1e-12).sqrt()
        return x * self.gate(contrast + mean)


class EnhancedSpatialAttention(nn.Module):
    """Scale every pixel by a gate that sees a wide neighbourhood through strides (RFANet and RFDN, Liu et al. 2020).

    The strided path does not pad, so it needs 15 pixels a side. Smaller inputs are widened by repeating their border.

    Args:
        channels: channels of the input and output; the gate's hidden layers have a quarter of them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 4
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.skip = nn.Conv2d(hidden, hidden, 1)
        self.stride = nn.Conv2d(hidden, hidden, 3, stride=2)
        self.wide = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
        )
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``, ``[N, C, H, W]``."""
        height, width = x.shape[2:]
        reduced = self.reduce(x)
        strided = self.stride(_at_least(reduced, STRIDED_PATH_NEEDS))
        wide = self.wide(F.max_pool2d(strided, kernel_size=7, stride=3))
        wide = F.interpolate(wide, (height, width), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.expand(wide + self.skip(reduced)))


def _at_least(x: Tensor, side: int) -> Tensor:
    height, width = x.shape[2:]
    if not _exporting() and height >= side and width >= side:
        return x
    # An exported graph cannot branch on the size: there, large inputs are widened by nothing.
    right, below = torch.sym_max(side - width, 0), torch.sym_max(side - height, 0)
    return F.pad(x, (0, right, 0, below), mode="replicate")  # type: ignore[arg-type]


def _exporting() -> bool:
    # PyTorch tells export from compilation since 2.7, which is also the first that our export takes.
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()
