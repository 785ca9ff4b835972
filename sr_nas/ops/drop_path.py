"""Drop-path: an operation's whole output is left out for some samples (Larsson et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Set whole samples to zero and scale the others so that the expectation stays.

    Args:
        x: ``[N, C, H, W]``.
        probability: of a sample to be dropped, in [0, 1).

    Returns:
        ``x * mask / (1 - probability)`` with one Bernoulli draw of torch's generator per sample; ``x`` itself at 0.
    """
    if not probability:
        return x
    kept = 1 - probability
    # Not bernoulli_, which takes no number that changes in a compiled network: that would be compiled anew every epoch.
    return x * ((torch.rand(x.shape[0], 1, 1, 1, device=x.device) < kept).to(x.dtype) / kept)
