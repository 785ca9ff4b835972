"""A clean stop on SIGINT and SIGTERM: the step in progress is finished, then the run saves itself."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from sr_nas.runs.distributed import largest


class Interrupt:
    """Context manager; call it to ask whether a signal has asked the run to stop.

    The first signal is noted; a second one gets the previous handler back and so ends the process at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def agreed(self) -> bool:
        """Whether to stop, asked by all processes of a run after the same step: a signal to one of them stops them all."""
        self.signal = largest(self.signal or 0) or None
        return self()

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it, so that what follows a run does not take it for finished."""
        return 0 if self.signal is None else 128 + self.signal

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
