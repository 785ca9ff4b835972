"""Reading option files: YAML without its traps, ``_base_`` inheritance, ``--force_yml`` overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from sr_nas.errors import UserError, nearest
from sr_nas.options.merging import merge


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
    what every type of its section has, and drops the rest (:mod:`sr_nas.options.merging`). The order of overrides matters
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
