"""Base classes of the sections of an option file: pydantic models that refuse unknown keys and name what was meant.

A :class:`Strict` section has fixed keys. Those of a :class:`Component` follow from its ``type``, the name of a registered entry,
whose keyword arguments they are.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PydanticUserError,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema
from typing_extensions import Self

from sr_nas.errors import UserError, absent, first_line, listing, nearest
from sr_nas.genotype import GenotypeLike, is_genotype_path, read_genotype
from sr_nas.registry import Registry


def describe_missing(path: Path, kind: str) -> str:
    """Return a message that a file or folder (``kind``) is missing: its first missing part, a similar name, what fetches it."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    where = "" if missing == path else f": there is no '{missing}'"
    siblings = [entry.name for entry in missing.parent.iterdir() if entry.exists()] if missing.parent.is_dir() else []
    source = " tools/prepare_data.py fetches data sets to datasets/." if path.parts[:1] == ("datasets",) else ""
    return f"{kind} '{path}' {absent(path)}{where}{nearest(missing.name, siblings)}{source}"


def _must_exist(expected: str, or_name: bool = False) -> AfterValidator:
    """Return a validator that expands ``~`` and checks existence, but for the validation context ``check_files=False``.

    With ``or_name``, a bare word passes: whether a network of that name ships with the package, is seen when it is loaded.
    """

    def check(value: str, info: ValidationInfo) -> str:
        path = Path(value).expanduser()
        is_name = or_name and not path.suffix and path.name == value and not path.exists()
        if (info.context or {}).get("check_files", True) and not is_name:
            if not path.exists():
                raise ValueError(describe_missing(path, expected))
            kind = "folder" if path.is_dir() else "file"
            if kind not in expected:
                raise ValueError(f"'{path}' is a {kind}, but a {expected} is expected")
        return str(path)

    return AfterValidator(check)


ExistingFolder = Annotated[str, Field(min_length=1), _must_exist("folder")]
ExistingFile = Annotated[str, Field(min_length=1), _must_exist("file")]
WeightsFile = Annotated[str, Field(min_length=1), _must_exist("file", or_name=True)]
ModelPath = Annotated[str, Field(min_length=1), _must_exist("file or folder", or_name=True)]


class Strict(BaseModel):
    """A section with fixed keys. All that is wrong in it is reported at once: unknown keys, wrong values, booleans as numbers."""

    more_keys: ClassVar[str | None] = None
    """Prefix of further keys that a section with ``extra="allow"`` accepts; their type is that of ``__pydantic_extra__``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # A section with nothing under it is null in YAML: its defaults, or errors that name the required keys.
        value = {} if value is None else value
        if not isinstance(value, dict):
            return handler(value)
        more, fields = cls.more_keys, cls.model_fields
        unknown = [key for key in value if key not in fields and not (more and str(key).startswith(more))]
        allowed = listing([*fields, *([f"{more}_..."] if more else [])], 40)
        problems = [
            _problem("unknown_key", f"unknown key{cls.meant(key)} Allowed: {allowed}.", (str(key),), value[key])
            for key in unknown
        ]
        section = None
        try:
            section = handler({key: item for key, item in value.items() if key not in unknown})
        except ValidationError as error:
            problems += [_problem(each["type"], each["msg"], each["loc"], each["input"]) for each in error.errors()]
        else:
            problems += [
                _problem("misread", text, (key,), value[key])
                for key in fields
                if key in value and (text := _misread(value[key], getattr(section, key)))
            ]
        if problems or section is None:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return section

    @classmethod
    def meant(cls, key: str) -> str:
        """End a sentence about an unknown key: what it may mean."""
        return nearest(key, cls.model_fields)


def _problem(kind: str, text: str, location: tuple[int | str, ...], value: Any) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=location, input=value)


def _misread(value: Any, result: Any) -> str:
    """Return what is wrong where pydantic, for which true is 1 and '1' too, made a number of something else; or ``""``."""
    if isinstance(value, dict) and isinstance(result, dict):
        return next(filter(None, (_misread(item, result.get(key)) for key, item in value.items())), "")
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return next(filter(None, map(_misread, value, result)), "")
    if isinstance(result, int) and abs(result) >= 2**63:
        return "a number below 2^63 is expected"
    return "a number is expected, not true or false" if isinstance(value, bool) and not isinstance(result, bool) else ""


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

    Types, bounds and defaults come from the signature, descriptions from the docstring's ``Args``. A static method
    ``check(**options)`` of the entry may raise :class:`ValueError` for combinations that its types cannot exclude.

    Raises:
        UserError: the registry has no such entry, or its signature tells no options.
    """
    entry: Any = registry.get(name)
    function = entry.__init__ if inspect.isclass(entry) else entry
    try:
        return _model_of(entry, function, registry, name, base)
    except (NameError, TypeError, PydanticUserError) as error:
        where = f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"
        raise UserError(f"{where}: the signature of {name} tells no options: {first_line(error)}") from error


def _model_of(entry: Any, function: Any, registry: Registry, name: str, base: type[BaseModel]) -> type[BaseModel]:
    hints = typing.get_type_hints(function, include_extras=True)
    descriptions = _descriptions(entry)
    fields: dict[str, Any] = {"type": (typing.Literal[name], name)}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self" or parameter.name in registry.supplied:
            continue
        if parameter.name not in hints:
            raise TypeError(f"the parameter '{parameter.name}' has no annotation.")
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
    # A made class has no source in which to look for the docstrings of its fields, and the search through all modules is slow.
    no_source = {"use_attribute_docstrings": False}
    kind = f"{name}_{base.__name__}"
    model = create_model(kind, __base__=base, __validators__=validators, __doc__=summary, __cls_kwargs__=no_source, **fields)
    model.registry = registry  # type: ignore[attr-defined]
    return model


def _descriptions(entry: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> its description in the ``Args`` section of a docstring."""
    _, _, section = (inspect.getdoc(entry) or "").partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    return {name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.M)}


class Component(Strict):
    """A section that selects a registered entry by ``type`` and holds the entry's keyword arguments."""

    registry: ClassVar[Registry | None] = None
    """Set by :func:`section_model`: the entries of which ``type`` is one."""

    type: str

    @classmethod
    def meant(cls, key: str) -> str:
        """End a sentence about an unknown key: the types that it belongs to, or the nearest key."""
        base, registry = cls.__mro__[1], cls.registry
        types = [name for name in registry.names() if key in section_model(registry, name, base).model_fields] if registry else []
        here = cls.model_fields["type"].default
        return f" for type {here}; it belongs to type {' and '.join(types)}." if types else super().meant(key)

    def arguments(self) -> dict[str, Any]:
        """The entry's own keyword arguments, without ``type`` and the keys that sections of all types have."""
        # The class above is the base that section_model was given: its keys are those of all types.
        common = type(self).__mro__[1].model_fields  # type: ignore[attr-defined]
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}


@dataclass(frozen=True)
class FromRegistry:
    """Annotation ``Annotated[Base, FromRegistry(registry)]``: a :class:`Component` whose type is an entry of ``registry``.

    The registry is first asked when an option file is checked, so declaring such a field imports nothing.
    """

    registry: Registry

    def __get_pydantic_core_schema__(self, source: type[Component], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Any:
            section = value.model_dump() if isinstance(value, Component) else {"type": value} if isinstance(value, str) else value
            if not isinstance(section, dict) or "type" not in section:
                text = f"a mapping with the key 'type' is expected. Allowed types: {listing(self.registry.names())}."
                raise PydanticCustomError("no_type", "{text}", {"text": text})
            try:
                model = section_model(self.registry, str(section["type"]), source)
            except UserError as error:
                raise PydanticCustomError("unknown_name", "{text}", {"text": str(error)}) from error
            return model.model_validate(section, context=info.context)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda section, info: section.model_dump(mode=info.mode, exclude_none=info.exclude_none), info_arg=True
            ),
            metadata={"base": source},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        models: list[Any] = [section_model(self.registry, name, schema["metadata"]["base"]) for name in self.registry.names()]
        guests = [
            {"type": "object", "properties": {"type": {"pattern": f"^{re.escape(prefix)}"}}, "required": ["type"]}
            for prefix in self.registry.guests
        ]
        return {"anyOf": [*(handler(model.__pydantic_core_schema__) for model in models), *guests]}
