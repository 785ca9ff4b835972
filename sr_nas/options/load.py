"""From an option file to typed options, or to one message that names everything wrong in it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.basicsr import from_basicsr, is_basicsr
from sr_nas.options.component import EARLY
from sr_nas.options.yaml_files import read_options

_LOGGER = logging.getLogger(__name__)
Options = TypeVar("Options", bound=BaseModel)
SUPER_RESOLUTION = "super-resolution"
UNSEEN = "Values that depend on a type, such as those of network_g, are checked once this is mended."


def load_options(
    model: type[Options] | Mapping[str, type[Options]], path: str | Path, overrides: Iterable[str] = (), check_files: bool = True
) -> Options:
    """Read, merge and check an option file, ours or one of BasicSR's (:mod:`sr_nas.options.basicsr`).

    Args:
        model: such as :class:`~sr_nas.options.search.SearchOptions`; or ``task`` of the option file -> model.
        path: the option file.
        overrides: ``section:key=value`` texts, applied last.
        check_files: whether files and folders that the options name must exist.

    Raises:
        UserError: names every wrong key by its path, with the nearest valid name and the allowed values.
    """
    raw = read_options(Path(path), overrides)
    if is_basicsr(raw):
        raw, notes = from_basicsr(raw, str(path))
        for note in notes:
            _LOGGER.warning("%s, an option file of BasicSR: %s", path, note)
    return check_options(_of_task(model, raw, path) if isinstance(model, Mapping) else model, raw, path, check_files)


def _of_task(models: Mapping[str, type[Options]], raw: dict[str, Any], path: str | Path) -> type[Options]:
    task = raw.get("task", SUPER_RESOLUTION)
    if task not in models:
        raise UserError(f"{path}: task: there is no '{task}' here{nearest(str(task), models)} Allowed: {listing(models)}.")
    return models[task]


def check_early(model: type[BaseModel] | Mapping[str, type[BaseModel]], path: str | Path, overrides: Iterable[str] = ()) -> None:
    """Check of an option file what can be checked without importing PyTorch; nothing where that has been done already.

    These are all keys, and the values of those that do not depend on a type. Of several processes, which say the same thing
    once, none checks early.

    Raises:
        UserError: as :func:`load_options`.
    """
    if "torch" in sys.modules or "RANK" in os.environ:
        return
    raw = read_options(Path(path), overrides)
    if is_basicsr(raw):
        raw, _ = from_basicsr(raw, str(path))
    model = _of_task(model, raw, path) if isinstance(model, Mapping) else model
    try:
        model.model_validate(raw, context={"check_files": True, EARLY: True})
    except ValidationError as error:
        raise UserError(f"{_explain(str(path), error)}\n{UNSEEN}") from error


def check_options(model: type[Options], raw: dict[str, Any], path: str | Path, check_files: bool = True) -> Options:
    """Check what was read from an option file; the rest is as in :func:`load_options`."""
    try:
        return model.model_validate(raw, context={"check_files": check_files})
    except ValidationError as error:
        raise UserError(_explain(str(path), error)) from error


def dump_options(options: BaseModel) -> str:
    """Write options as YAML that :func:`load_options` reads back to the same."""
    return yaml.safe_dump(options.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return ``key.path: old -> new`` for everything in which two dumped options differ."""
    found = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def _explain(path: str, error: ValidationError) -> str:
    found = error.errors(include_url=False)
    lines = [f"{path}: {len(found)} problem{'s' * (len(found) > 1)}"]
    for problem in found:
        where = ".".join(str(part) for part in problem["loc"])
        lines.append(f"  {where}: {_text(problem)}" if where else f"  {_text(problem)}")
    return "\n".join(lines)


def _text(problem: Any) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("missing", "unknown_key", "unknown_name", "no_type", "value_error"):
        return text if problem["type"] != "missing" else "this key is required, and missing."
    return f"{text} (found {problem['input']!r})."
