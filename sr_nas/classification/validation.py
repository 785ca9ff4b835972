"""How many images a classifier names rightly."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sr_nas.errors import UserError

TOP = (1, 5)


class NonFiniteLogits(UserError):
    """A classifier that gives NaN or infinity."""


def hits(logits: Tensor, target: Tensor, k: int) -> int:
    """Return for how many images fewer than ``k`` other classes have a logit as large as that of the right one.

    Equal logits count against the network: one that prefers nothing has named nothing.

    Args:
        logits: ``[N, classes]``.
        target: class numbers, int64, ``[N]``.
        k: 1 for top-1, 5 for top-5.
    """
    right = logits.gather(1, target[:, None])
    return int(((logits >= right).sum(1) <= k).sum())


@torch.inference_mode()
def evaluate_classifier(
    network: nn.Module, batches: Iterable[tuple[Tensor, ...]], device: torch.device | str
) -> dict[str, float]:
    """Return ``top1`` and ``top5``, per cent of the images, and ``images``, their number.

    Args:
        network: maps ``[N, 3, H, W]`` to logits ``[N, classes]``; run in eval mode and left in the mode that it was in.
        batches: of (images, class numbers).
        device: where the network is.

    Raises:
        NonFiniteLogits: the network gives NaN or infinity.
    """
    was_training, counts, images = network.training, dict.fromkeys(TOP, 0), 0
    network.eval()
    try:
        for x, target in batches:
            logits, target = network(x.to(device)), target.to(device)
            if not logits.isfinite().all():
                raise NonFiniteLogits("the network gives NaN or infinity.")
            counts = {k: count + hits(logits, target, k) for k, count in counts.items()}
            images += len(target)
    finally:
        network.train(was_training)
    return {f"top{k}": 100 * count / images for k, count in counts.items()} | {"images": images}
