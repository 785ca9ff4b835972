"""Option files: YAML with ``_base_`` inheritance and ``--force_yml`` overrides, checked and turned into typed options."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.basicsr import MARK, from_basicsr

Options = TypeVar("Options", bound=BaseModel)
# Options that may change without changing what a run computes: at the top, in train, in every data set.
FREE = ("logger", "num_gpu", "path")
FREE_OF_TRAINING = ("divergence_factor",)
FREE_OF_A_DATASET = ("name", "num_worker_per_gpu", "cache")
_LOGGER = logging.getLogger(__name__)


class OptionLoader(yaml.SafeLoader):
    """YAML loader that reads 1e-4 as a number and ``off`` as a word, and refuses keys that are given twice."""

    def unique_mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        keys: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key: keys are words", key_node.start_mark)
            if key in keys:  # PyYAML would silently keep the last
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
            keys.add(key)
        return self.construct_mapping(node, deep=True)


# PyYAML follows YAML 1.1, in which 1e-4 is a word and "off" is false; in YAML 1.2, which editors follow, it is the other way.
OptionLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in OptionLoader.yaml_implicit_resolvers.items()
}
OptionLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
OptionLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)
OptionLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, OptionLoader.unique_mapping)


def merge(under: Any, over: Any, address: str = "", dropped: list[str] | None = None) -> Any:
    """Lay an overriding value over an inherited one: mappings are merged key by key, anything else is replaced.

    A mapping of another ``type`` replaces the inherited one as a whole, since the keys of one type mean nothing to another;
    ``dropped`` receives a line on each. A name over or under a mapping with a type is short for ``{type: name}``. ``address`` is
    the keys that lead to both, joined by dots.
    """
    if isinstance(over, str) and isinstance(under, dict) and "type" in under:
        over = {"type": over}
    # A genotype may be a string too, which is a path or names of candidates.
    if isinstance(under, str) and isinstance(over, dict) and not address.endswith("genotype"):
        under = {"type": under}
    if not isinstance(over, dict) or not isinstance(under, dict):
        return over
    if "type" in under and over.get("type", under["type"]) != under["type"]:
        lost = [f"{key}: {value}" for key, value in under.items() if key not in over]
        if lost and dropped is not None:
            dropped.append(f"{address} is {over['type']} instead of {under['type']}, and inherits none of {listing(lost)}")
        return over
    prefix = f"{address}." if address else ""
    merged = {key: merge(under[key], value, prefix + key, dropped) for key, value in over.items() if key in under}
    return under | over | merged


def read_options(path: Path, overrides: Iterable[str] = (), _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an option file with everything it inherits, then apply overrides (:func:`merge`); nothing is checked yet.

    ``_base_`` names one file or a list of files, relative to the file that names them. Later bases win over earlier ones, the
    file over its bases, and over the file ``section:key=value`` texts, in any order, whose value is read as YAML.

    Raises:
        UserError: a file that is missing, no YAML, no mapping or its own base; an override that is not of that form.
    """
    resolved = path.resolve()
    if resolved in _chain:
        raise UserError(f"{path} is its own _base_: {' -> '.join(step.name for step in (*_chain, resolved))}.")
    options = _read_yaml(path)
    bases = options.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_ is the name of an option file or a list of names, not {bases!r}.")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, read_options(path.parent / base, _chain=(*_chain, resolved)))
    dropped: list[str] = []
    merged = merge(merge(merged, options), _overrides(overrides), dropped=dropped)
    for text in dropped:
        _LOGGER.warning("--force_yml: %s", text)
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a tag or a date with a value that is none
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(options, dict):
        raise UserError(f"{path}: an option file is a mapping of keys to values, not a {type(options).__name__}.")
    return options


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    parsed = []
    for text in texts:
        address, equals, value = text.partition("=")
        keys = address.split(":")
        if not equals or not all(keys):
            raise UserError(f"--force_yml '{text}': the form is section:key=value, for example train:optim_g:lr=1e-4.")
        try:
            parsed.append((keys, yaml.load(value, Loader=OptionLoader)))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--force_yml '{text}': the value is no YAML.") from error
    merged: dict[str, Any] = {}
    for keys, value in sorted(parsed, key=lambda override: len(override[0])):  # a whole section before single keys of it
        merged = merge(merged, reduce(lambda section, key: {key: section}, reversed(keys), value))
    return merged


def load_options(
    model: type[Options] | Callable[[str], type[Options]],
    path: str | Path,
    overrides: Iterable[str] = (),
    check_files: bool = True,
) -> Options:
    """Read, merge and check an option file, ours or one of BasicSR's (:mod:`sr_nas.options.basicsr`).

    Args:
        model: such as :class:`~sr_nas.options.sections.SearchOptions`; or a function from the file's ``task`` to its model.
        path: the option file.
        overrides: as for :func:`read_options`.
        check_files: whether files and folders that the options name must exist.

    Raises:
        UserError: names every wrong key by its path, with the nearest valid name and the allowed values.
    """
    raw = read_options(Path(path), overrides)
    if MARK in raw:
        raw, notes = from_basicsr(raw, str(path))
        for note in notes:
            _LOGGER.warning("%s, an option file of BasicSR: %s", path, note)
    if not isinstance(model, type):
        try:
            model = model(str(raw.get("task", "super-resolution")))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return check_options(model, raw, path, check_files)


def check_options(model: type[Options], raw: dict[str, Any], path: str | Path, check_files: bool = True) -> Options:
    """Turn what was read from an option file into typed options; arguments and errors are those of :func:`load_options`."""
    try:
        return model.model_validate(raw, context={"check_files": check_files})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}"]
        for problem in problems:
            address = ".".join(map(str, problem["loc"]))
            lines.append(f"  {address}: {_message(problem)}" if address else f"  {_message(problem)}")
        raise UserError("\n".join(lines)) from error


def _message(problem: Any) -> str:
    if problem["type"] == "missing":
        return "this key is required, and missing."
    text: str = problem["msg"].removeprefix("Value error, ")
    complete = problem["type"] in ("unknown_key", "unknown_name", "no_type", "value_error")
    return text if complete else f"{text} (found {problem['input']!r})."


def dump_options(options: BaseModel) -> str:
    """Write options as YAML that :func:`load_options` reads back to the same."""
    return yaml.safe_dump(options.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def decisive(options: Mapping[str, Any], free: Iterable[str] = FREE) -> dict[str, Any]:
    """Return dumped options without ``free`` keys at the top and others that may change without changing what a run computes."""
    result = {key: value for key, value in options.items() if key not in free}
    result["train"] = _without(options.get("train"), FREE_OF_TRAINING)
    result["datasets"] = {name: _without(data, FREE_OF_A_DATASET) for name, data in options.get("datasets", {}).items()}
    return result


def _without(section: Mapping[str, Any] | None, keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in (section or {}).items() if key not in keys}


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return ``key.path: old -> new`` for everything in which two dumped options differ."""
    lines = []
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
