"""Arguments of registered entries, read off their source: importing them imports PyTorch, which takes a second or two."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, create_model

from sr_nas import registry as registries
from sr_nas.registry import Registry


@dataclass(frozen=True)
class Outline:
    """What the source of a registry's package tells.

    Attributes:
        entries: name -> {argument: whether it is required}; ``None`` for an entry that inherits its ``__init__`` or takes any.
        complete: whether there are no others: all that the source does with the registry is register by decorators.
    """

    entries: dict[str, dict[str, bool] | None]
    complete: bool


@cache
def outline(registry: Registry[Any]) -> Outline:
    """Read the files of a registry's package."""
    (name,) = (name for name, value in vars(registries).items() if value is registry)
    entries: dict[str, dict[str, bool] | None] = {}
    uses = 0
    for file in _files(registry.package):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            uses += _uses(node, name)
            for entry in _entries(node, name):
                uses -= 1
                arguments = _arguments(node)
                if arguments is not None:
                    arguments = {key: needed for key, needed in arguments.items() if key not in registry.supplied}
                entries[entry] = arguments
    return Outline(entries, uses == 0)


def outlined(name: str, arguments: dict[str, bool], base: type[BaseModel]) -> type[BaseModel]:
    """Return a model like that of :meth:`Registry.settings`, in which an argument takes any value."""
    fields: dict[str, Any] = {"type": (Literal[name], name)}
    fields |= {key: (Any, ... if needed else None) for key, needed in arguments.items()}
    return create_model(f"{name}_{base.__name__}", __base__=base, **fields)


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    folders = spec.submodule_search_locations
    return [file for folder in folders for file in sorted(Path(folder).glob("*.py"))] if folders else [Path(str(spec.origin))]


def _uses(node: ast.AST, registry: str) -> int:
    """1 for a mention of the registry, -1 for a question to it, which mentions it too and enters nothing."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr="get" | "names"):
            return -(name == registry)
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name, asname=str()):
            return int(name == registry)
    return 0


def _entries(node: ast.AST, registry: str) -> Iterator[str]:
    """Names that a function or class is registered under."""
    for decorator in getattr(node, "decorator_list", []):
        match decorator:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="register"), args=[]) if owner == registry:
                yield node.name  # type: ignore[attr-defined]
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=owner), attr="register"), args=[ast.Constant(value=str(name))]
            ) if owner == registry:
                yield name


def _arguments(node: ast.AST) -> dict[str, bool] | None:
    if isinstance(node, ast.ClassDef):
        return next(
            (_arguments(part) for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None
        )
    if not isinstance(node, ast.FunctionDef) or node.args.vararg or node.args.kwarg:
        return None
    positional = [*node.args.posonlyargs, *node.args.args]
    needed = len(positional) - len(node.args.defaults)
    found = {argument.arg: place < needed for place, argument in enumerate(positional)}
    found |= {
        argument.arg: default is None for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    }
    found.pop("self", None)
    return found
