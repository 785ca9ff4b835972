"""Telling a training that has come to nothing from one that goes up and down."""

from __future__ import annotations

from collections import deque
from typing import Any

from sr_nas.errors import UserError

WINDOW = 100
"""Iterations in the mean that is judged: so many that a hard batch, or a restart of the learning rate, does not count."""
RECENT = 10


class Diverged(UserError):
    """The training has come to nothing: its loss or its weights are not finite, or the loss is far above what it was."""


class DivergenceWatch:
    """Compares the mean of the last losses with the lowest such mean of the run.

    Args:
        factor: the loss has diverged where the mean is this many times the lowest one; ``None`` never judges.
        window: losses in a mean; before there are so many, nothing is judged.
    """

    def __init__(self, factor: float | None, window: int = WINDOW) -> None:
        self.factor, self.window = factor, window
        self.losses: deque[float] = deque(maxlen=window)
        self.lowest: float | None = None

    def note(self, loss: float) -> None:
        """Take in the loss of an iteration."""
        self.losses.append(loss)
        if len(self.losses) == self.window:
            mean = self._mean(self.window)
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)

    @property
    def diverged(self) -> bool:
        """Whether the mean of the window is far above the lowest one."""
        return self.far_above(self._mean(self.window))

    @property
    def suspicious(self) -> bool:
        """Whether the mean of the last few losses is: what is saved now might be the beginning of a divergence."""
        return self.far_above(self._mean(RECENT))

    def describe(self) -> str:
        """Say how far the loss has gone up."""
        mean = self._mean(self.window)
        return f"the mean loss of the last {self.window} iterations is {mean:.4g}, and was {self.lowest:.4g} at its lowest"

    def far_above(self, loss: float) -> bool:
        """Whether a loss is as many times the lowest mean as a diverged one; false before there is such a mean."""
        return self.factor is not None and self.lowest is not None and self.lowest > 0 and not loss <= self.factor * self.lowest

    def _mean(self, count: int) -> float:
        last = list(self.losses)[-count:]
        return sum(last) / max(len(last), 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as this one does."""
        return {"losses": list(self.losses), "lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state_dict` was taken."""
        self.losses = deque(state["losses"], maxlen=self.window)
        self.lowest = state["lowest"]
