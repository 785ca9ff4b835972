"""sr_nas: search, train, measure, export and run small super-resolution networks."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_network", "upscale"]
_PUBLIC = {"load_network": "sr_nas.export.model:load_model", "upscale": "sr_nas.jobs.upscale:upscale"}

if TYPE_CHECKING:
    from sr_nas.export.model import load_model as load_network
    from sr_nas.jobs.upscale import upscale


def __getattr__(name: str) -> Any:
    """Import what a user of the package needs when it is first asked for, so that ``import sr_nas`` stays free of torch."""
    if name in _PUBLIC:
        return pkgutil.resolve_name(_PUBLIC[name])
    raise AttributeError(f"module 'sr_nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
