"""The random numbers of a relaxation that samples: addressed by seed, step and pass, never consumed from one to the next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Draw:
    """What one pass over the supernet draws, and how far the search is.

    Two draws of one address give the same numbers in the same order: a resumed search draws what a straight one does, and all
    processes of a job draw the same.

    Args:
        address: seed, step and pass.
        progress: share of the epochs that is done, 0 in the first.
    """

    def __init__(self, address: tuple[int, ...], progress: float) -> None:
        self.progress = progress
        self._random = np.random.default_rng(address)

    def gumbel(self, like: Tensor) -> Tensor:
        """Return standard Gumbel noise, ``-log(-log(uniform))``, of the shape, dtype and device of ``like``."""
        return torch.from_numpy(self._random.gumbel(size=tuple(like.shape))).to(like)


def in_pass(relaxation: Callable[..., Tensor], address: tuple[int, ...], progress: float) -> Callable[[Tensor], Tensor]:
    """Return the relaxation of one pass: one that takes a ``draw`` samples, any other is the same in every pass."""
    if "draw" not in inspect.signature(relaxation).parameters:
        return relaxation
    options: dict[str, Any] = {"draw": Draw(address, progress)}
    return partial(relaxation, **options)
