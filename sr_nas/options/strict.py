"""Laying what an option file says over what it inherits."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.outline import outline, outlined
from sr_nas.options.signatures import section_model
from sr_nas.registry import Registry


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


# MERGED sr_nas.options.strict: Types for options that name a file or folder of the user's.


def describe_missing(path: Path, what: str) -> str:
    """Say that ``path`` does not exist, which part of it is first to be missing, what lies there instead, and what fetches it.

    Args:
        path: a path that does not exist.
        what: ``"file"`` or ``"folder"``.
    """
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    where = "" if missing == path else f": there is no '{missing}'"
    siblings = [entry.name for entry in missing.parent.iterdir()] if missing.parent.is_dir() else []
    fetched = " tools/prepare_data.py fetches data sets to datasets/." if path.parts[:1] == ("datasets",) else ""
    return f"{what} '{path}' does not exist{where}{nearest(missing.name, siblings)}{fetched}"


def _wants_check(info: ValidationInfo) -> bool:
    return (info.context or {}).get("check_files") is not False


def _folder(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.is_dir():
        raise ValueError(f"'{path}' is a file, but a folder is expected" if path.exists() else describe_missing(path, "folder"))
    return str(path)


def _file(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.is_file():
        raise ValueError(f"'{path}' is a folder, but a file is expected" if path.exists() else describe_missing(path, "file"))
    return str(path)


def _either(value: str, info: ValidationInfo) -> str:
    path = Path(value).expanduser()
    if _wants_check(info) and not path.exists():
        raise ValueError(describe_missing(path, "file or folder"))
    return str(path)


ExistingFolder = Annotated[str, Field(min_length=1), AfterValidator(_folder)]
"""Path of a folder, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""

ExistingFile = Annotated[str, Field(min_length=1), AfterValidator(_file)]
"""Path of a file, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""

ExistingPath = Annotated[str, Field(min_length=1), AfterValidator(_either)]
"""Path of a file or a folder, ``~`` expanded. It must exist unless the validation context holds ``check_files=False``."""


# MERGED sr_nas.options.strict: Sections of an option file: typed, immutable, and strict about keys.


Self = TypeVar("Self", bound="Strict")


def _counted(given: Any, taken: Any) -> bool:
    """Whether pydantic took a true or false for 1 or 0."""
    if isinstance(given, dict) and isinstance(taken, dict):
        return any(_counted(item, taken.get(key)) for key, item in given.items())
    if isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        return any(map(_counted, given, taken))
    return isinstance(given, bool) and not isinstance(taken, bool)


def _problem(kind: str, text: str, where: tuple[int | str, ...], found: Any) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=where, input=found)


class Strict(BaseModel):
    """A section whose unknown keys are errors that name the nearest key and all allowed ones, and true is no number."""

    more_keys: ClassVar[str | None] = None
    """How further keys begin that a section with ``extra="allow"`` takes, checked as its ``__pydantic_extra__`` says."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls: type[Self], value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # A section with nothing under it is YAML's null: its defaults, or errors that name what it lacks.
        value = {} if value is None else value
        if not isinstance(value, dict):
            return handler(value)
        more = cls.more_keys
        unknown = [key for key in value if key not in cls.model_fields and not (more and str(key).startswith(more))]
        allowed = listing([*cls.model_fields, *([f"{more}_..."] if more else [])], 40)
        problems = [
            _problem("unknown_key", f"unknown key{nearest(key, cls.model_fields)} Allowed: {allowed}.", (str(key),), value[key])
            for key in unknown
        ]
        result = None
        try:
            result = handler({key: item for key, item in value.items() if key not in unknown})
        except ValidationError as error:
            problems += [
                _problem(found["type"], found["msg"], found["loc"], found["input"]) for found in error.errors(include_url=False)
            ]
        else:
            problems += [
                _problem("truth_as_number", "a number is expected, not true or false", (key,), value[key])
                for key in cls.model_fields
                if key in value and _counted(value[key], getattr(result, key))
            ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        assert result is not None
        return result


class Component(Strict):
    """A section that names a registered entry by ``type`` and gives its arguments."""

    of_one_type: ClassVar[frozenset[str]] = frozenset()
    """Fields of every type that a section nevertheless does not inherit from one of another type."""

    type: str

    def arguments(self) -> dict[str, Any]:
        """The entry's own arguments, without ``type`` and without the keys that every entry of its kind has."""
        common = type(self).__mro__[1].model_fields  # type: ignore[attr-defined]
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}


# MERGED sr_nas.options.strict: Fields of an option file whose allowed keys depend on the registered entry
# that ``type`` names.


_LOGGER = logging.getLogger(__name__)
EARLY = "early"
"""In the context of a validation: whether it looks at no more than can be seen without importing PyTorch."""


@dataclass(frozen=True)
class Of:
    """Annotation ``Annotated[Base, Of(registry)]``: a :class:`Component` whose type is an entry of ``registry``.

    The entry's arguments become keys beside those of ``Base``. The registry is first asked when an option file is
    checked, so declaring such a field imports nothing.
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: type[Component], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, Component):
                value = value.model_dump()
            common = source.model_fields.keys() - source.of_one_type
            section = settle(value, common)
            if (info.context or {}).get(EARLY):
                return _outlined(self.registry, source, section, info)
            kind, names = self.registry.kind, self.registry.names()
            if not isinstance(section, dict) or "type" not in section:
                raise _no_type(names)
            if self.registry.is_guest(section["type"]):
                try:
                    self.registry.get(section["type"])
                except UserError as error:
                    raise PydanticCustomError("unknown_name", "{text}", {"text": str(error)}) from error
            elif section["type"] not in names:
                raise _unknown(kind, section["type"], names)
            model = section_model(self.registry, section["type"], source)
            if isinstance(value, Retyped):
                under = {key: item for key, item in settle(value.under, common).items() if key not in source.of_one_type}
                _tell_dropped(info.field_name, under, section, model)
            return model.model_validate(section, context=info.context)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
            metadata={"base": source},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        base = schema["metadata"]["base"]
        models = [section_model(self.registry, name, base) for name in self.registry.names()]
        guests = [
            {"type": "object", "properties": {"type": {"pattern": f"^{re.escape(prefix)}"}}, "required": ["type"]}
            for prefix in self.registry.guests
        ]
        return {"anyOf": [*(handler(model.__pydantic_core_schema__) for model in models), *guests]}


def _outlined(registry: Registry[Any], source: type[Component], section: Any, info: ValidationInfo) -> Component:
    """Check the keys of a section, and the values of those that all its types have."""
    known = outline(registry)
    kind = section.get("type") if isinstance(section, dict) else None
    if known.complete and not registry.is_guest(kind):
        if kind is None:
            raise _no_type(list(known.entries))
        if kind not in list(known.entries):  # whatever stands there, it need not be hashable
            raise _unknown(registry.kind, kind, list(known.entries))
    arguments = known.entries.get(str(kind))
    if arguments is None:
        return source.model_construct(type=str(kind))
    return outlined(str(kind), arguments, source).model_validate(section, context=info.context)  # type: ignore[return-value]


def _no_type(names: list[str]) -> PydanticCustomError:
    return PydanticCustomError("no_type", f"a mapping with the key 'type' is expected. Allowed types: {listing(names)}.")


def _unknown(kind: str, name: Any, names: list[str]) -> PydanticCustomError:
    return PydanticCustomError("unknown_name", f"unknown {kind} '{name}'{nearest(name, names)} Allowed: {listing(names)}.")


def _tell_dropped(where: str | None, under: dict[str, Any], section: dict[str, Any], model: type[BaseModel]) -> None:
    """Say which keys of the old type the new one knows too, yet does not inherit: nobody would miss the others."""
    dropped = [f"{key}: {value}" for key, value in under.items() if key in model.model_fields and key not in section]
    if dropped:
        old, new = under["type"], section["type"]
        _LOGGER.warning(
            "%s is %s instead of %s, whose %s it does not inherit: name it again to keep it", where, new, old, listing(dropped)
        )


def _dump(value: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode, exclude_none=info.exclude_none)
