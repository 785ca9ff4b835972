"""One panel redrawn in place on a terminal, plain lines anywhere else: what all live views share."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import Segments
from rich.text import Text

from sr_nas.report.timing import Clock

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS_BETWEEN_DRAWINGS = 0.25

SHARE_OF_TIME = 0.01
"""Largest share of the time of a run that goes into drawing."""


class View(ABC):
    """Where the progress of a run is shown; a context manager.

    The panel is drawn by the calling thread (one of its own would draw half-updated state and compete with the training step),
    at most four times a second, and less often where that would take more than ``SHARE_OF_TIME``: a large panel, a slow line.

    Args:
        console: its being a terminal decides between panel and lines.
        clock: seconds; replaced in tests.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self.console = console
        self.is_live = console.is_terminal and not console.is_dumb_terminal
        self._clock = clock
        self._next_drawing = -math.inf
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    @abstractmethod
    def panel(self, width: int, height: int) -> RenderableType:
        """Return the panel for the room there is, in characters."""

    def __enter__(self) -> Self:
        if self.is_live:
            self._live.start()
            self._redraw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_live:
            self._redraw()
            self._live.stop()

    def message(self, text: str) -> None:
        """Print one line that stays, above the panel where there is one. It is never wrapped or read as markup."""
        self.console.print(Text(text), soft_wrap=True)

    def _changed(self) -> None:
        """Redraw the panel unless that was done just now."""
        if self.is_live and self._clock() >= self._next_drawing:
            self._redraw()

    def _redraw(self) -> None:
        began = self._clock()
        # One row stays free: it keeps the latest message in sight above a panel that fills the window.
        self._live.update(self.panel(self.console.width, self.console.height - 1), refresh=True)
        ended = self._clock()
        self._next_drawing = ended + max(SECONDS_BETWEEN_DRAWINGS, (ended - began) / SHARE_OF_TIME)

    def _frozen(self, parts: Iterable[RenderableType], width: int) -> RenderableType:
        """Lay out parts once, for drawing them often."""
        lines = self.console.render_lines(Group(*parts), self.console.options.update(width=width), new_lines=True)
        return Segments([segment for line in lines for segment in line])
