"""x8 self-ensemble: the network on the eight flips and transpositions of an image, averaged (Lim et al. 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from torch import Tensor

FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))


def self_ensemble(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean of the network's eight outputs for ``[N, C, h, w]``, each turned back; float32."""
    total = None
    for flips, transposed in product(FLIPS, (False, True)):
        turned = x.flip(flips)
        y = network(turned.transpose(2, 3) if transposed else turned)
        y = (y.transpose(2, 3) if transposed else y).flip(flips).float()
        total = y if total is None else total.add_(y)
    assert total is not None
    return total.div_(8)
