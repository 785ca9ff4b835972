"""The auxiliary classifier that helps a DARTS network train; it is no part of what the network computes afterwards."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AuxiliaryHead(nn.Module):
    """ReLU, average pooling, two convolutions, classifier (Liu et al. 2019, after Inception).

    Args:
        channels: of the features.
        num_classes: number of logits.
        stride: of the pooling: 3 for features of 8x8 (CIFAR), 2 for 7x7 (ImageNet).
        last_norm: whether a BatchNorm follows the second convolution. The published ImageNet networks were trained without.
    """

    def __init__(self, channels: int, num_classes: int, stride: int, last_norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([nn.BatchNorm2d(768)] if last_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[N, channels, H, W]`` to logits; what is larger than 8x8 (7x7) is averaged at the end."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
