"""Option sections read off signatures: the keyword arguments of a registered function or class become typed keys."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, WithJsonSchema, create_model, model_validator

from sr_nas.errors import UserError
from sr_nas.genotype import GenotypeLike, is_genotype_path, read_genotype
from sr_nas.registry import Registry


def _resolve(source: Any, info: ValidationInfo) -> Any:
    if is_genotype_path(source) and not (info.context or {}).get("check_files", True):
        return source
    try:
        return read_genotype(source)
    except UserError as error:
        raise ValueError(str(error)) from error


_GENOTYPE_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}],
    "description": "Candidate names in order, a mapping label -> name, a genotype file, or a run folder.",
}

GenotypeSource = Annotated[Any, BeforeValidator(_resolve), WithJsonSchema(_GENOTYPE_SCHEMA)]
"""What :func:`sr_nas.genotype.genotype_from` takes, or a path to it. Networks annotate such a parameter as ``GenotypeLike``."""


@cache
def section_model(registry: Registry, name: str, base: type[BaseModel]) -> type[BaseModel]:
    """Return the typed model of the options of an entry: the fields of ``base`` plus the entry's own keyword arguments.

    Types, bounds (``annotated_types``) and defaults come from the signature, descriptions from the docstring's ``Args``. A
    static method ``check(**options)`` of the entry may raise :class:`ValueError` for combinations that its types cannot exclude.

    Raises:
        UserError: the registry has no such entry.
    """
    entry = registry.get(name)
    function = entry.__init__ if inspect.isclass(entry) else entry
    hints = typing.get_type_hints(function, include_extras=True)
    descriptions = _descriptions(entry)
    fields: dict[str, Any] = {"type": (typing.Literal[name], name)}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self" or parameter.name in registry.supplied:
            continue
        hint = GenotypeSource if hints[parameter.name] == GenotypeLike else hints[parameter.name]
        default = ... if parameter.default is parameter.empty else parameter.default
        described = any(getattr(extra, "description", None) for extra in getattr(hint, "__metadata__", ()))
        description = {} if described or parameter.name not in descriptions else {"description": descriptions[parameter.name]}
        fields[parameter.name] = (hint, Field(default, **description))  # type: ignore[call-overload]
    arguments = [field for field in fields if field != "type"]
    check: Callable[..., None] | None = getattr(entry, "check", None)

    def run_check(self: BaseModel) -> BaseModel:
        if check is not None:
            check(**{argument: getattr(self, argument) for argument in arguments})
        return self

    validators: dict[str, Any] = {"run_check": model_validator(mode="after")(run_check)}
    summary = (inspect.getdoc(entry) or "").split("\n\n")[0]
    return create_model(f"{name}_{base.__name__}", __base__=base, __validators__=validators, __doc__=summary, **fields)


def _descriptions(entry: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> its description in the ``Args`` section of a docstring."""
    _, _, section = (inspect.getdoc(entry) or "").partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    return {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)}
