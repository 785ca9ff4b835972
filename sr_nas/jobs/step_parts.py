"""The parts of a search step: timed while a searcher takes it, and the terms of alpha's loss by themselves.

The data of alpha and the optimizers are parts of the two steps, the terms of alpha's loss of the alpha step.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sr_nas.jobs.side_by_side import wait_for
from sr_nas.search.cost import normalised_cost
from sr_nas.search.searcher import Searcher

WATCHED = {
    "data": ("_batch",),
    "alpha step": ("alpha_step",),
    "weight step": ("weight_step",),
}
"""Part -> methods of the searcher."""
OPTIMIZERS = ("weight_optimizer", "alpha_optimizer")


class Parts:
    """Times the parts of a searcher's steps, within :meth:`watching`; otherwise the searcher is as it was.

    Args:
        searcher: whose steps.
        device: it is waited for at the beginning and the end of every part.
    """

    def __init__(self, searcher: Searcher, device: torch.device) -> None:
        self.searcher, self.device = searcher, device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block seconds are added up, anew each time. A part counts where it stands within another, too."""
        self.seconds = defaultdict(float)
        for part, names in WATCHED.items():
            for name in names:
                setattr(self.searcher, name, self._timed(part, getattr(self.searcher, name)))
        handles = [handle for name in OPTIMIZERS for handle in self._hooks(getattr(self.searcher, name))]
        try:
            yield
        finally:
            for names in WATCHED.values():
                for name in names:
                    delattr(self.searcher, name)
            for handle in handles:
                handle.remove()
            self.seconds = dict(self.seconds)

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any) -> Any:
            self._begin(part)
            found = call(*words)
            self._end(part)
            return found

        return timed

    def _hooks(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        return [
            optimizer.register_step_pre_hook(lambda *_: self._begin("optimizers")),
            optimizer.register_step_post_hook(lambda *_: self._end("optimizers")),
        ]

    def _begin(self, part: str) -> None:
        wait_for(self.device)
        self.seconds[part] -= time.perf_counter()

    def _end(self, part: str) -> None:
        wait_for(self.device)
        self.seconds[part] += time.perf_counter()


def terms(searcher: Searcher, repeats: int) -> dict[str, Callable[[], None]]:
    """Return what computes ``repeats`` times the regulariser and the cost terms, and what they give to alpha's gradient.

    The weights of the candidates are not made anew for a cost: the supernet needs them in any case.
    """
    objective, alpha = searcher.objective, searcher.alpha
    logits = [alpha.by_label()[label] for label in objective.regularized]
    weights = {label: weight.detach().requires_grad_() for label, weight in alpha.relax(searcher.relaxation).items()}

    def regularizer() -> None:
        for _ in range(repeats):
            value = objective.strength(searcher.epoch) * objective.regularizer(logits)
            if value.requires_grad:
                torch.autograd.grad(value, logits)

    def cost(name: str) -> None:
        weight, table = objective.costs[name]
        for _ in range(repeats):
            value = weight * normalised_cost(weights, table)
            torch.autograd.grad(value, [weights[label] for label in table])

    found: dict[str, Callable[[], None]] = {"regularizer": regularizer} if logits else {}
    return found | {f"{name} term": (lambda name=name: cost(name)) for name in objective.costs}
