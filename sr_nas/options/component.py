"""Fields of an option file whose allowed keys depend on the registered entry that ``type`` names."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.merging import Retyped, settle
from sr_nas.options.outline import outline, outlined
from sr_nas.options.strict import Component
from sr_nas.registry import Registry

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
            model = self.registry.settings(section["type"], source)
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
        models = [self.registry.settings(name, base) for name in self.registry.names()]
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
