"""Reading option files: YAML without its traps, ``_base_`` inheritance, ``--force_yml`` overrides."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.basicsr import from_basicsr, is_basicsr
from sr_nas.options.strict import EARLY, merge


class OptionLoader(yaml.SafeLoader):
    """SafeLoader that knows 1e-4 for a number, and refuses a key given twice, of which YAML would keep the last in silence."""


def _mapping(loader: OptionLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key: keys are words", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


# PyYAML follows YAML 1.1, in which 1e-4 is a word and "off" is false. To everybody else, YAML 1.2 and editors included, the
# one is a number and the other a word.
OptionLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in OptionLoader.yaml_implicit_resolvers.items()
}
OptionLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
OptionLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
OptionLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_options(path: Path, overrides: Iterable[str] = (), _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an option file with everything it inherits, then apply overrides.

    ``_base_`` names one file or a list of files, relative to the file that names them; later ones win over earlier ones,
    the file over all, and overrides over the file. Mappings are merged key by key. A component that changes its type keeps
    what every type of its section has, and drops the rest (:mod:`sr_nas.options.strict`). The order of overrides matters
    only where they name the same key: one of a section, or of its type, goes before those of what is in it.

    Args:
        path: the option file.
        overrides: ``section:key=value`` texts; the value is read as YAML.

    Raises:
        UserError: a file that is missing, no YAML, no mapping or its own base; an override that is not of that form.
    """
    resolved = path.resolve()
    if resolved in _chain:
        raise UserError(f"{path} is its own _base_: {' -> '.join(str(step.name) for step in (*_chain, resolved))}.")
    options = _read(path)
    bases = options.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_ is the name of an option file or a list of names, not {bases!r}.")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, read_options(path.parent / base, _chain=(*_chain, resolved)))
    merged = merge(merged, options)
    for keys, value in sorted(map(_parsed, overrides), key=_depth):
        for key in reversed(keys):
            value = {key: value}
        merged = merge(merged, value)
    return merged


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an option file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        siblings = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UserError(f"option file {path} does not exist{nearest(path.name, siblings)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"option file {path} cannot be read: {error}.") from error
    try:
        options = yaml.load(text, Loader=OptionLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: an option file is a mapping of keys to values, not a {type(options).__name__}.")
    return options


def _parsed(override: str) -> tuple[list[str], Any]:
    address, equals, value = override.partition("=")
    keys = address.split(":")
    if not equals or not all(keys):
        raise UserError(f"--force_yml '{override}': the form is section:key=value, for example train:optim_g:lr=1e-4.")
    try:
        return keys, yaml.load(value, Loader=OptionLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--force_yml '{override}': the value is no YAML.") from error


def _depth(override: tuple[list[str], Any]) -> int:
    keys, _ = override
    return len(keys) - (keys[-1] == "type")


# MERGED sr_nas.options.load: From an option file to typed options, or to one message that names everything
# wrong in it.


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
