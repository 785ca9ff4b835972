"""Option files: YAML with ``_base_`` inheritance and ``--force_yml`` overrides, checked and turned into typed options."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sr_nas.errors import UserError, absent, listing, nearest, shortened
from sr_nas.genotype import NETWORK_BLOCK, is_genotype_path, read_genotype
from sr_nas.options.basicsr import MARK, from_basicsr
from sr_nas.registry import PLUGINS, load_plugin

Options = TypeVar("Options", bound=BaseModel)
# Options that may change without changing what a run computes: at the top, in train, in every data set. A resumed run takes the
# num_threads that it was begun with, whatever the option says now.
FREE = ("logger", "num_gpu", "num_threads", "path")
FREE_OF_TRAINING = ("divergence_factor",)
FREE_OF_A_DATASET = ("name", "num_worker_per_gpu", "cache")
MOST_BYTES, MOST_NODES, MOST_DEPTH = 2**20, 20_000, 40
"""Limits of an option file: its size, its values with aliases written out, and how deep they are nested."""
_LOGGER = logging.getLogger(__name__)


def _whole(text: str) -> int:
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if not -(2**63) <= number < 2**63:  # more would overflow in whatever counts with it
        raise ValueError
    return number


# Scalars of YAML 1.2 (core schema): tag -> pattern, what it is called, value. PyYAML follows YAML 1.1, in which 0777 is 511, 1:30
# is 90, "off" is false, 2024-01-01 a date and 1e-4 a word; editors read such a file otherwise.
_TAG = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "null", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "true or false", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "a whole number below 2^63", _whole),
    "float": (_NUMBER, "a number", lambda text: float(re.sub(r"\.(?=[in])", "", text.lower()))),
    "str": ("[^\\0\ud800-\udfff]*", "text that a file may contain", str),
}


class OptionLoader(yaml.SafeLoader):
    """Loader of the plain part of YAML 1.2: text, numbers, truth values, null, lists, and mappings of words given once each."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node as the base class does; refuse what is huge by its depth, or by aliases of aliases."""
        event, before = self.peek_event(), self.nodes
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        node = None if self.depth > MOST_DEPTH else super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            self.nodes += getattr(node, "nodes", 0)
        elif node is not None:
            node.nodes = self.nodes - before  # type: ignore[attr-defined]
        if node is None or self.nodes > MOST_NODES:
            problem = f"nested deeper than {MOST_DEPTH}" if node is None else f"more than {MOST_NODES} values"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth -= 1
        return node

    def construct_plain(self, node: yaml.ScalarNode) -> Any:
        """Return the value of a scalar; raise ConstructorError where it is none of its tag."""
        pattern, kind, value = _SCALARS[node.tag.removeprefix(_TAG)]
        text = self.construct_scalar(node)
        with suppress(ValueError):
            if re.fullmatch(pattern, text):
                return value(text)
        raise yaml.constructor.ConstructorError(None, None, f"{shortened(text)} is not {kind}", node.start_mark)

    def construct_list(self, node: yaml.SequenceNode) -> list[Any]:
        return self.construct_sequence(node, deep=True)

    def construct_map(self, node: yaml.MappingNode) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
            if (name := str(key.value)) in seen and key.tag != f"{_TAG}merge":  # PyYAML would silently keep the last
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is given twice", key.start_mark)
            seen.add(name)
        return self.construct_mapping(node, deep=True)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        for key, _ in node.value:
            if key.tag != _TAG + "str":
                problem = f"{shortened(self.construct_object(key, deep=True))} is no key: keys are words"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)

    def refuse(self, node: yaml.Node) -> None:
        known = listing(f"!!{name}" for name in (*_SCALARS, "seq", "map"))
        tag = node.tag.replace(_TAG, "!!")
        raise yaml.constructor.ConstructorError(None, None, f"the tag {tag} is not read here, only {known}", node.start_mark)


_PATTERNS = {name: pattern for name, (pattern, *_) in _SCALARS.items() if name != "str"} | {"merge": "<<"}
OptionLoader.yaml_implicit_resolvers = {
    None: [(_TAG + name, re.compile(rf"(?:{pattern})\Z")) for name, pattern in _PATTERNS.items()]
}
OptionLoader.yaml_constructors = {
    **{_TAG + name: OptionLoader.construct_plain for name in _SCALARS},
    f"{_TAG}seq": OptionLoader.construct_list,
    f"{_TAG}map": OptionLoader.construct_map,
    None: OptionLoader.refuse,
}


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes what YAML 1.1 or :class:`OptionLoader` would not read as text."""


_Dumper.yaml_implicit_resolvers = yaml.SafeDumper.yaml_implicit_resolvers | OptionLoader.yaml_implicit_resolvers


def parse_yaml(text: str, where: object) -> Any:
    """Read YAML from the user; raise UserError, which says ``where``, and in which line and column, where it is none."""
    try:
        loader = OptionLoader(text)
        return loader.get_single_data()
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"the character {chr(error.character)!r} may not stand in YAML"
        raise UserError(f"{where}, line {line}: {problem}.") from error
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        raise UserError(f"{where}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}.") from error
    except RecursionError as error:
        raise UserError(f"{where}: a mapping is merged into itself.") from error
    except ValueError as error:  # such as of "\\U00110000"
        raise UserError(f"{where}, line {loader.line + 1}, column {loader.column + 1}: no such character ({error}).") from error


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


def read_options(
    path: Path, overrides: Iterable[str] = (), _chain: tuple[Path, ...] = (), _networks: list[Any] | None = None
) -> dict[str, Any]:
    """Read an option file with everything it inherits, apply overrides (:func:`merge`) and load plug-ins; check nothing yet.

    ``_base_`` names one file or a list of files, relative to the file that names them. Later bases win over earlier ones, the
    file over its bases, and over the file ``section:key=value`` texts, in any order, whose value is read as YAML.
    A genotype given by the folder or the file of its search brings the size that it was searched at, where no size is given,
    and the plug-ins of the search, where none are given. The path of a plug-in is relative to the file that names it.

    Raises:
        UserError: a file that is missing, no YAML, no mapping or its own base; an override that is not of that form; a genotype
            over an inherited size that it was not searched at; a plug-in that is missing or raises an error.
    """
    if path.resolve() in [step.resolve() for step in _chain]:
        raise UserError(f"{path} is its own _base_: {' -> '.join(step.name for step in (*_chain, path))}.")
    asking = [f"{step}, a link to {step.resolve()}" if step.is_symlink() else str(step) for step in _chain[-1:]]
    options = read_yaml(path, "".join(f", the _base_ of {step}" for step in asking))
    bases = options.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_ is the name of an option file or a list of names, not {bases!r}.")
    merged: dict[str, Any] = {}
    networks: list[Any] = [] if _networks is None else _networks
    for base in bases:
        merged = merge(merged, read_options(path.parent / base, (), (*_chain, path), networks))
    dropped: list[str] = []
    over = _with_paths(_overrides(overrides), Path())
    merged = merge(merge(merged, options), over, dropped=dropped)
    for text in dropped:
        _LOGGER.warning("--force_yml: %s", text)
    networks += [options.get("network_g"), over.get("network_g")]
    if not _chain:
        merged = _with_searched_size(merged, networks, path)
        for file in plugins_of(merged):
            load_plugin(file)
    return merged


def plugins_of(options: Any) -> list[str]:
    """Return the paths of plug-ins in a mapping of options that may not be checked yet."""
    files = options.get("plugin") if isinstance(options, Mapping) else None
    files = [files] if isinstance(files, str) else files
    return files if isinstance(files, list) and all(isinstance(file, str) for file in files) else []


def _with_paths(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return options with absolute paths of plug-ins that are relative to a folder."""
    files = [os.path.abspath(folder / os.path.expanduser(file)) for file in plugins_of(options)]
    return options | {"plugin": files} if files else options


def _with_searched_size(options: dict[str, Any], networks: Sequence[Any], path: Path) -> dict[str, Any]:
    """Add the size that a genotype was searched at to ``network_g``; ``networks`` are those of the files, the last on top."""
    network: Any = options.get("network_g")
    source: Any = network.get("genotype") if isinstance(network, dict) else None
    if not is_genotype_path(source):
        return options
    block = (Path(source) if os.path.isdir(source) else Path(source).parent) / NETWORK_BLOCK
    content: Any = None
    with suppress(UserError, OSError):  # what is no genotype is refused where the options are checked
        content = None if block.is_file() else read_genotype(source)
    content = read_yaml(block) if block.is_file() else content
    searched = content.get("network_g") if isinstance(content, dict) else None
    options = ({"plugin": files} if (files := plugins_of(content)) else {}) | options
    if not isinstance(searched, dict) or searched.get("type") != network.get("type"):
        return options
    size = _without(searched, ("type", "genotype"))
    if differing := {key: network[key] for key in size if network.get(key, size[key]) != size[key]}:
        was, here = (", ".join(f"{key} {of[key]}" for key in differing) for of in (size, network))
        texts = [" ".join(f"network_g:{key}={of[key]}" for key in differing) for of in (size, network)]
        given = [section if isinstance(section, dict) else {} for section in networks]
        top = max((place for place, section in enumerate(given) if "genotype" in section), default=0)
        if not all(any(key in section for section in given[top:]) for key in differing):
            raise UserError(
                f"{path}: the genotype of {source} was searched at {was},\nand this network would be {here}. Say which:\n"
                f"  --force_yml {texts[0]}   as searched\n  --force_yml {texts[1]}   as the option file has it\n"
                + f"or inherit the searched network: _base_: [{path}, {block}]"
                * block.is_file()
            )
        _LOGGER.warning("the genotype of %s was searched at %s, and this network is %s", source, was, here)
    return options | {"network_g": size | network}


def read_yaml(path: Path, asked_by: str = "") -> dict[str, Any]:
    """Read a mapping from a YAML file; a UserError, which ends with ``asked_by``, if it is missing, and if it is none."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an option file{asked_by}.")
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        siblings = [file.name for file in path.parent.glob("*.y*ml") if file.exists()] if path.parent.is_dir() else []
        raise UserError(f"option file {path} {absent(path)}{asked_by}{nearest(path.name, siblings)}") from error
    except OSError as error:
        raise UserError(f"option file {path} cannot be read: {error.strerror}.") from error
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is larger than {MOST_BYTES >> 20} MiB: that is no option file.")
    try:
        options = parse_yaml(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8. Save the file in this encoding.") from error
    if not isinstance(options, dict):
        holds = "nothing" if options is None else shortened(options)
        raise UserError(f"{path}: an option file is a mapping of keys to values, not {holds}.")
    return _with_paths(options, path.parent)


def _overrides(texts: Iterable[str]) -> dict[str, Any]:
    parsed = []
    for text in texts:
        address, equals, value = text.partition("=")
        keys = address.split(":")
        if not equals or not all(keys):
            raise UserError(f"--force_yml '{text}': the form is section:key=value, for example train:optim_g:lr=1e-4.")
        parsed.append((keys, parse_yaml(value, f"--force_yml {shortened(text)}")))
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
    (key, tool), (_, wanted) = _kind_of(raw), _kind_of(model.model_fields)  # type: ignore[attr-defined]
    if tool != wanted and key:
        raise UserError(f"{path}: the key '{key}' makes it an option file of tools/{tool}.py, and not of tools/{wanted}.py.")
    return check_options(model, raw, path, check_files)


def _kind_of(keys: Mapping[str, Any]) -> tuple[str, str]:
    """Return the key that tells which tool options are for, and the tool's name."""
    tools = {"search": "search", "models": "evaluate", "val": "train"}
    return next(((key, tool) for key, tool in tools.items() if key in keys), ("", ""))


def check_options(model: type[Options], raw: dict[str, Any], path: str | Path, check_files: bool = True) -> Options:
    """Turn what was read from an option file into typed options; arguments and errors are those of :func:`load_options`."""
    try:
        return model.model_validate(raw, context={"check_files": check_files})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}"]
        for problem in problems:
            address = _address(raw, problem["loc"])
            lines.append(f"  {address}: {problem_text(problem)}" if address else f"  {problem_text(problem)}")
        raise UserError("\n".join(lines)) from error


def _address(value: Any, location: Sequence[int | str]) -> str:
    """Return the keys to a value, without what pydantic calls the alternatives of a type."""
    parts: list[str] = []
    for part in location:
        if isinstance(part, int) and isinstance(value, list):
            value = value[part] if part < len(value) else None  # of a pair with one value
        elif isinstance(value, dict | None):
            value = (value or {}).get(part)
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


# What pydantic says of these kinds of problems is in Python's words.
_WORDS = {
    "model": "a section, keys with values, is expected",
    "dict": "a section, keys with values, is expected",
    "tuple": "a list is expected",
    "list": "a list is expected",
    "string": "text is expected, in quotes where it looks like a number or the like",
    "string_pattern_mismatch": "letters, digits and . _ + - make it up, a letter or digit first",
    "bool": "true or false is expected",
    "int": "a whole number is expected",
    "float": "a number is expected",
}


def problem_text(problem: Any) -> str:
    """Return what one of the errors of a ValidationError says, in the words of an option file."""
    kind: str = problem["type"]
    if kind == "missing":
        return "this key is required, and missing."
    text = _WORDS.get(kind) or _WORDS.get(re.sub(r"_(type|parsing.*|from_float)$", "", kind)) or problem["msg"]
    complete = kind in ("unknown_key", "unknown_name", "no_type", "value_error")
    return text.removeprefix("Value error, ") if complete else f"{text} (found {shortened(problem['input'])})."


def dump_yaml(content: Any) -> str:
    """Return plain values as YAML that :func:`parse_yaml` and readers of YAML 1.1 read back to the same."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def dump_options(options: BaseModel) -> str:
    """Write options as YAML that :func:`load_options` reads back to the same."""
    return dump_yaml(options.model_dump(mode="json", exclude_none=True))


def plugin_digests(options: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> SHA-256 of the plug-ins in options, those that are loaded as they were then."""
    digests = {}
    for file in plugins_of(options):
        content = PLUGINS[file] if file in PLUGINS else Path(file).read_bytes() if Path(file).is_file() else None
        digests[Path(file).name] = "missing" if content is None else f"sha256 {hashlib.sha256(content).hexdigest()}"
    return digests


def decisive(options: Mapping[str, Any], free: Iterable[str] = FREE) -> dict[str, Any]:
    """Return dumped options without ``free`` keys at the top and others that may change without changing what a run computes.

    A plug-in is its content, and not its path.
    """
    result = {key: value for key, value in options.items() if key not in free}
    result |= {"plugin": digests} if (digests := plugin_digests(options)) else {}
    result["train"] = _without(options.get("train"), FREE_OF_TRAINING)
    if isinstance(datasets := options.get("datasets"), Mapping):
        result["datasets"] = {name: _without(data, FREE_OF_A_DATASET) for name, data in datasets.items()}
    return result


def _without(section: Any, keys: Iterable[str]) -> Any:
    # What is no section is compared as it is: a damaged file differs, and that is said.
    return {key: value for key, value in section.items() if key not in keys} if isinstance(section, Mapping) else section or {}


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
