"""Sections of an option file: typed, immutable, and strict about keys."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sr_nas.errors import listing, nearest

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
