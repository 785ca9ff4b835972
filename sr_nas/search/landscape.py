"""What lies around alpha: a quantity over a plane of two random directions (Li et al., NeurIPS 2018; SA-DARTS, figure 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Normalise = Literal["alpha", "unit"]
ByLabel = Mapping[str, Tensor]


def random_direction(alpha: ByLabel, seed: Sequence[int], normalise: Normalise) -> dict[str, Tensor]:
    """Return a Gaussian direction, normalised choice by choice as Li et al. normalise filter by filter.

    The part that is common to all logits of a choice is taken out first, of the direction and of alpha alike: softmax does not
    see it, and a regulariser may have made it large.

    Args:
        alpha: label -> logits.
        seed: two of them give two directions; drawn on the CPU, so that every device has the same.
        normalise: ``"alpha"`` gives a choice's part the norm of its alpha, so that 1 is as far as alpha has come; ``"unit"``
            gives it norm 1, the same for every method.
    """
    generator = torch.Generator().manual_seed(_joined(seed))
    found = {}
    for label, logits in alpha.items():
        drawn = _centred(torch.randn(logits.numel(), generator=generator, dtype=torch.float64))
        length = _centred(logits.detach().double().cpu()).norm() if normalise == "alpha" else 1.0
        found[label] = (drawn / drawn.norm().clamp_min(1e-12) * length).to(logits)
    return found


@torch.no_grad()
def over_plane(
    measure: Callable[[dict[str, Tensor]], Sequence[float]],
    alpha: ByLabel,
    first: ByLabel,
    second: ByLabel,
    steps: Sequence[float],
    watch: Callable[[Sequence[float]], Iterable[float]] = iter,
) -> Tensor:
    """Measure at ``alpha + a first + b second`` for all a and b in ``steps``, row by row of b, which pass through ``watch``.

    Returns:
        float64, ``[len(steps) of b, len(steps) of a, what is measured]``.
    """
    rows = [
        [measure({label: logits + a * first[label] + b * second[label] for label, logits in alpha.items()}) for a in steps]
        for b in watch(steps)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean()


def _joined(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
