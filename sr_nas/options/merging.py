"""Laying what an option file says over what it inherits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class Retyped(dict[str, Any]):
    """A mapping that lies over another, ``under``, perhaps of another type: :func:`settle` says what it takes from it."""

    def __init__(self, own: dict[str, Any], under: Any) -> None:
        super().__init__(own)
        self.under = under


def merge(under: Any, over: Any) -> Any:
    """Lay ``over`` over ``under``: mappings are merged key by key, of all else ``over`` alone remains.

    A mapping over one of another ``type``, or over a name, becomes :class:`Retyped`, since which keys mean the same to both
    types is known only to the section that they are in. Where ``under`` has a type, a name is short for ``{type: name}``.
    """
    if isinstance(under, dict) and "type" in under and isinstance(over, str):
        over = {"type": over}
    if isinstance(over, dict) and isinstance(under, str):
        return Retyped(over, under)
    if not isinstance(over, dict) or not isinstance(under, dict):
        return over
    if "type" in under and over.get("type", under["type"]) != under["type"]:
        return Retyped(over, under)
    merged = under | {key: merge(under[key], value) if key in under else value for key, value in over.items()}
    return Retyped(merged, under.under) if isinstance(under, Retyped) else merged


def settle(section: Any, common: Collection[str]) -> Any:
    """Return a section without :class:`Retyped`: over another type, it inherits the keys in ``common`` and no others.

    Args:
        section: what stands in an option file for a component; a name is short for ``{type: name}``.
        common: keys that mean the same to all types of the section.
    """
    if isinstance(section, str):
        return {"type": section}
    if not isinstance(section, Retyped):
        return section
    under = settle(section.under, common)
    if "type" in section:
        under = {key: value for key, value in under.items() if key in common and key != "type"}
    return merge(under, dict(section))
