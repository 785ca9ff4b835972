"""Errors that the user can mend, phrases of their messages, JSON that is read with such errors, and too little memory."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable
from reprlib import Repr
from typing import Any

# PyTorch has an exception of its own for CUDA; the CPU, MPS, other libraries and a fork that fails have only a text.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "insufficient memory"),
    *("failed to allocate", "bad_alloc", "alloc_failed", "can't start new thread", "failed to map segment"),
)


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


def shortened(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, its middle left out where it is longer than ``limit``, without ever building a longer one."""
    short = Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    text = short.repr(value)
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-17:]}"


def parse_json(content: str | bytes, where: object) -> Any:
    """Read JSON whose mappings name every key once; raise UserError, which says ``where`` and the line, where it is none."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):  # Python would silently keep the last
            raise ValueError(f"the key '{Counter(name for name, _ in pairs).most_common(1)[0][0]}' is given twice")
        return mapping

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no JSON: it is not UTF-8 (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, line {error.lineno}, column {error.colno}, is no JSON: {error.msg}.") from error
    except RecursionError as error:
        raise UserError(f"{where} is no JSON of ours: it is nested too deep.") from error
    except ValueError as error:
        raise UserError(f"{where} is no JSON of ours: {error}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of the device or of the machine does not suffice."""
    text = "" if isinstance(error, UserError) else str(error).lower()
    return isinstance(error, MemoryError) or any(part in text for part in OUT_OF_MEMORY)
