"""Sections of an option file: typed, immutable, and strict about keys."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from sr_nas.errors import listing, nearest

Self = TypeVar("Self", bound="Strict")


class Strict(BaseModel):
    """A section whose unknown keys are errors that name the nearest key and all allowed ones."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls: type[Self], value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # A section with nothing under it is YAML's null: its defaults, or errors that name what it lacks.
        value = {} if value is None else value
        if not isinstance(value, dict):
            return handler(value)
        unknown = [key for key in value if key not in cls.model_fields]
        problems = [
            InitErrorDetails(
                type=PydanticCustomError(
                    "unknown_key",
                    "unknown key{nearest} Allowed: {allowed}.",
                    {"nearest": nearest(key, cls.model_fields), "allowed": listing(cls.model_fields, 40)},
                ),
                loc=(str(key),),
                input=value[key],
            )
            for key in unknown
        ]
        result = None
        try:
            result = handler({key: item for key, item in value.items() if key not in unknown})
        except ValidationError as error:
            problems += [
                InitErrorDetails(
                    type=PydanticCustomError(found["type"], "{text}", {"text": found["msg"]}),
                    loc=found["loc"],
                    input=found["input"],
                )
                for found in error.errors(include_url=False)
            ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        assert result is not None
        return result


class Component(Strict):
    """A section that names a registered entry by ``type`` and gives its arguments."""

    type: str

    def arguments(self) -> dict[str, Any]:
        """The entry's own arguments, without ``type`` and without the keys that every entry of its kind has."""
        common = type(self).__mro__[1].model_fields  # type: ignore[attr-defined]
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}
