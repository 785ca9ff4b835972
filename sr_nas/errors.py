"""Errors that the user can mend, and the two phrases that their messages are made with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. The message says what was wrong, where, and what to do."""


def nearest(name: object, allowed: Iterable[str]) -> str:
    """End a sentence about an unknown name: ``" - did you mean 'x'?"`` for the closest allowed one, else ``"."``."""
    by_lower = {str(candidate).lower(): str(candidate) for candidate in allowed}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return f" - did you mean '{by_lower[close[0]]}'?" if close else "."


def listing(names: Iterable[object], limit: int = 20) -> str:
    """Join names with commas; beyond ``limit`` the rest is counted instead of named."""
    texts = [str(name) for name in names]
    first = ", ".join(texts[:limit])
    return first if len(texts) <= limit else f"{first} ... and {len(texts) - limit} more"
