"""The mixed operation of a cell for classification: candidates of one channel count, with a stride."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.ops.classification_candidates import CellBuilder, Zero


def searchable(candidate: nn.Module, channels: int) -> nn.Module:
    """A candidate as it stands in a supernet: poolings have a BatchNorm without scale and shift behind them (DARTS)."""
    if isinstance(candidate, (nn.MaxPool2d, nn.AvgPool2d)):
        return nn.Sequential(candidate, nn.BatchNorm2d(channels, affine=False))
    return candidate


class CellMixedOp(nn.Module):
    """``sum_i weights[i] * candidate_i(x)`` (DARTS, eq. 2), on all channels or on a share of them.

    With ``partial_channel`` K > 1 (PC-DARTS, Xu et al. 2020, eq. 1) the first 1/K of the channels go through the candidates;
    the rest bypass them, through a 2x2 max-pooling at stride 2, and the result is channel-shuffled. BatchNorms have no scale and
    no shift, which would undo the weights.

    Args:
        builders: candidate name -> function of (channels, stride, affine).
        channels: of the input and the result.
        stride: 1 or 2.
        partial_channel: K; must divide the channels.

    Raises:
        ValueError: a K that does not divide the channels.
    """

    def __init__(self, builders: Mapping[str, CellBuilder], channels: int, stride: int, partial_channel: int = 1) -> None:
        super().__init__()
        if channels % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide {channels} channels")
        self.stride, self.partial_channel, self.sampled = stride, partial_channel, channels // partial_channel
        built = {name: build(self.sampled, stride, False) for name, build in builders.items()}
        self.candidates = nn.ModuleDict({name: searchable(candidate, self.sampled) for name, candidate in built.items()})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix.

        Args:
            x: ``[N, channels, H, W]``.
            weights: ``[number of candidates]``.

        Returns:
            ``[N, channels, ceil(H/stride), ceil(W/stride)]``.
        """
        if self.partial_channel == 1:
            return self._mix(x, weights)
        mixed, bypassed = self._mix(x[:, : self.sampled], weights), x[:, self.sampled :]
        if self.stride == 2:
            bypassed = F.max_pool2d(bypassed, 2, ceil_mode=True)
        return F.channel_shuffle(torch.cat((mixed, bypassed), dim=1), self.partial_channel)

    def _mix(self, x: Tensor, weights: Tensor) -> Tensor:
        # Zeros add nothing and give their weight no gradient, so they are not computed.
        first, *rest = (
            weight * candidate(x)
            for weight, candidate in zip(weights, self.candidates.values(), strict=True)
            if not isinstance(candidate, Zero)
        )
        for term in rest:
            first = first + term
        return first
