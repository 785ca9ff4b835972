"""Fields of an option file whose allowed keys depend on the registered entry that ``type`` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sr_nas.errors import listing, nearest
from sr_nas.options.strict import Component
from sr_nas.registry import Registry


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
            kind, names = self.registry.kind, self.registry.names()
            if isinstance(value, str):
                value = {"type": value}
            if not isinstance(value, dict) or "type" not in value:
                raise PydanticCustomError("no_type", f"a mapping with the key 'type' is expected. Each {kind}: {listing(names)}.")
            if value["type"] not in names:
                hint = nearest(value["type"], names)
                raise PydanticCustomError("unknown_name", f"unknown {kind} '{value['type']}'{hint} Allowed: {listing(names)}.")
            return self.registry.settings(value["type"], source).model_validate(value, context=info.context)

        return core_schema.with_info_plain_validator_function(
            validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
            metadata={"base": source},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        base = schema["metadata"]["base"]
        models = [self.registry.settings(name, base) for name in self.registry.names()]
        return {"anyOf": [handler(model.__pydantic_core_schema__) for model in models]}


def _dump(value: Component, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode, exclude_none=info.exclude_none)
