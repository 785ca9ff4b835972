"""A network named on the command line."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from sr_nas.contracts import SRNetwork
from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.strict import Component
from sr_nas.registry import NETWORKS


def network_of(arch: str, scale: int, **settings: Any) -> SRNetwork:
    """Build a network by the name of its architecture, in any case; settings that are ``None`` keep their default.

    Raises:
        UserError: an unknown architecture or a setting it refuses.
    """
    names = {name.lower(): name for name in NETWORKS.names()}
    if arch.lower() not in names:
        raise UserError(f"--arch: unknown architecture '{arch}'{nearest(arch, names.values())} Known: {listing(names.values())}.")
    name = names[arch.lower()]
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        section = NETWORKS.settings(name, Component).model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        where = f"--{found['loc'][0]}: " if found["loc"] else ""
        raise UserError(where + found["msg"].removeprefix("Value error, ")) from error
    return NETWORKS.get(name)(scale=scale, **section.arguments())  # type: ignore[attr-defined]
