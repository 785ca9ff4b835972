"""sr_nas: search, train, measure, export and run small super-resolution networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_network"]

if TYPE_CHECKING:
    from sr_nas.export.network_file import load_network


def __getattr__(name: str) -> Any:
    """Import what a user of the package needs when it is first asked for, so that ``import sr_nas`` stays free of torch."""
    if name == "load_network":
        from sr_nas.export.network_file import load_network

        return load_network
    raise AttributeError(f"module 'sr_nas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
