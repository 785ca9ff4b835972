"""Channel attention of information multi-distillation (IMDN, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ContrastAwareChannelAttention(nn.Module):
    """Scale every channel by a gate computed from its standard deviation plus its mean over the whole image.

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
        variance = x.var(dim=(2, 3), correction=0, keepdim=True)
        # The root's slope is infinite at 0, where a constant channel would turn every gradient into NaN.
        contrast = variance.clamp_min(1e-12).sqrt()
        return x * self.gate(contrast + mean)
