"""Pickles of arrays, as CIFAR and Downsampled ImageNet are published, read without running what else a pickle may hold."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError


def read_arrays(file: Path, key: str, of: str) -> dict[str, Any]:
    """Return the mapping of names to arrays, lists and texts that a pickle of Python 2 or 3 holds.

    Args:
        file: the pickle.
        key: a name that it must have.
        of: what the file is a part of, for the message.

    Raises:
        UserError: it is missing or damaged, asks for anything but arrays, or is another one.
    """
    try:
        found = _OnlyArrays(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist: is {file.parent} the unpacked archive of {of}?") from error
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, AttributeError, ImportError, IndexError) as error:
        raise UserError(f"{file} is damaged or no part of {of} ({error}). Fetch it again.") from error
    if not isinstance(found, dict) or key not in found:
        raise UserError(f"{file} holds no '{key}': it is no part of {of} in its form for Python.")
    return found


class _OnlyArrays(pickle.Unpickler):
    """A pickle may run anything; one of arrays needs these alone."""

    _ALLOWED = frozenset({("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")})
    # NumPy has had them in several modules.
    _MAKERS = frozenset({("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")})

    def find_class(self, module: str, name: str) -> Any:
        package, _, inner = module.rpartition(".")
        if (module, name) in self._ALLOWED or (package in ("numpy.core", "numpy._core") and (inner, name) in self._MAKERS):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
