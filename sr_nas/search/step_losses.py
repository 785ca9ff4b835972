"""The losses of one step, on the device until somebody looks at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor


class StepLosses(Mapping[str, float]):
    """Name -> loss. The first look fetches all of them at once, and waits for the device.

    Args:
        losses: name -> scalar, on one device.
    """

    def __init__(self, losses: Mapping[str, Tensor]) -> None:
        self._names = list(losses)
        self._stacked = torch.stack([loss.detach() for loss in losses.values()])

    @cached_property
    def _values(self) -> dict[str, float]:
        return dict(zip(self._names, self._stacked.tolist(), strict=True))

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
