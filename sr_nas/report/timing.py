"""How long a run still takes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

Clock = Callable[[], float]
"""Seconds since some fixed moment, never going back."""

WINDOW = 10_000


class TimeLeft:
    """Time left, from the mean duration of the latest steps.

    Only steps of this process count: a run resumed at step 900 of 1000 has 100 steps left, and the 900 took it no time.
    The mean is taken over a window rather than the whole run because steps change their price on the way (a warm-up trains
    weights only).

    Args:
        total: steps of the whole run.
        start: steps done before this process began.
        clock: seconds; replaced in tests.
    """

    def __init__(self, total: int, start: int = 0, clock: Clock = time.monotonic) -> None:
        self.total = total
        self._clock = clock
        self._marks: deque[tuple[int, float]] = deque([(start, clock())])

    def advance(self, done: int, window: int = WINDOW) -> None:
        """Note that ``done`` steps of the run are finished now; steps more than ``window`` before that are forgotten."""
        self._marks.append((done, self._clock()))
        while len(self._marks) > 2 and self._marks[1][0] <= done - window:
            self._marks.popleft()

    @property
    def done(self) -> int:
        """Steps of the whole run finished so far."""
        return self._marks[-1][0]

    @property
    def seconds_per_step(self) -> float:
        """Mean duration of a step, validation and other pauses included; NaN before the first one."""
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        return (ended - began) / (last - first) if last > first else math.nan

    @property
    def seconds(self) -> float:
        """Seconds left; NaN before the first step."""
        return self.seconds_per_step * (self.total - self.done)


def duration(seconds: float) -> str:
    """Return e.g. ``1:23:45`` or ``2 days, 3:04:05``; NaN is ``unknown``."""
    return "unknown" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))


def step_duration(seconds: float) -> str:
    """Return the duration of one step in the unit that suits it; NaN is ``unknown``."""
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
