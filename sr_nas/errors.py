"""Errors that the user can mend, phrases of their messages, JSON that is read with such errors, and too little memory."""

from __future__ import annotations

import difflib
import errno
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from reprlib import Repr
from typing import Any

# PyTorch has an exception of its own for CUDA; the CPU, MPS, other libraries and a fork that fails have only a text.
OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "insufficient memory"),
    *("failed to allocate", "bad_alloc", "alloc_failed", "can't start new thread", "failed to map segment"),
)

WHAT_TO_DO = {
    errno.ENOSPC: "Free some space there, and run the command again.",
    errno.EDQUOT: "Your quota of that disk is used up: free some of it, and run the command again.",
    errno.EROFS: "That disk can only be read: name another folder.",
    errno.EACCES: "You may not do that there: change the permissions, or name another folder.",
}


class UserError(Exception):
    """A mistake that the user can mend. The message says what was wrong, where, and what to do."""


def reason(error: OSError) -> str:
    """Return a sentence on a file that could not be read or written: its name, why, and what to do where that is known."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}. {WHAT_TO_DO.get(error.errno or 0, '')}".rstrip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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


def absent(path: Path) -> str:
    """Return what is wrong with a path at which nothing is: "does not exist", or where the link leads."""
    return f"is a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "does not exist"


def parse_json(content: bytes, where: object, halves: str = "strict") -> Any:
    """Read JSON whose mappings name every key once; raise UserError, which says ``where``, if it is none.

    Half a character is refused, with ``halves="surrogateescape"`` unless it is a byte of a file's name that is not UTF-8.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):  # Python would silently keep the last
            raise ValueError(f"the key '{Counter(name for name, _ in pairs).most_common(1)[0][0]}' is given twice")
        return mapping

    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique)
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode(errors=halves)  # raises at half a character, which no file holds
        return value
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON: {error}.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of the device or of the machine does not suffice."""
    text = "" if isinstance(error, UserError) else str(error).lower()
    return isinstance(error, MemoryError) or any(part in text for part in OUT_OF_MEMORY)


def amount(text: str) -> float:
    """Read a number as people write it: ``20G``, ``2.5M``, ``150K``, ``1e9``; raise ValueError for anything else."""
    power = " KMG".find(text[-1:].upper()) if text.strip() else 0
    return float(text[:-1]) * 1000.0**power if power > 0 else float(text)


def short(number: float) -> str:
    """Write a number as :func:`amount` reads it, to four digits: ``8.434G``, ``168.4K``, ``15.2``."""
    unit = next((unit for unit in (1e9, 1e6, 1e3) if number >= unit), 1.0)
    return f"{number / unit:.4g}" + {1e9: "G", 1e6: "M", 1e3: "K"}.get(unit, "")
