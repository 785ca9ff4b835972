"""The JSON schema of option files, for editors. ``python -m sr_nas.options.schema > options/schema.json`` renews it."""

from __future__ import annotations

import json
import pkgutil
from typing import Any

from pydantic.json_schema import models_json_schema

from sr_nas.options.benchmark import BenchmarkOptions
from sr_nas.options.strict import Strict
from sr_nas.registry import TASKS

_BASE = {
    "description": "Option file(s) to inherit from, relative to this one.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def schema_text() -> str:
    """Return one schema for every kind of option file, as JSON. No key is required, since any may come from ``_base_``."""
    tasks = [pkgutil.resolve_name(name) for name in TASKS.values()]
    kinds: list[type[Strict]] = [*(task.search_options for task in tasks), *(task.training_options for task in tasks)]
    kinds.append(BenchmarkOptions)
    refs, shared = models_json_schema([(kind, "validation") for kind in kinds])
    definitions = shared["$defs"]
    for kind in kinds:
        definitions[kind.__name__]["properties"]["_base_"] = _BASE
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sr_nas option file",
        "anyOf": [refs[(kind, "validation")] for kind in kinds],
        "$defs": definitions,
    }
    return json.dumps(_without_required(schema), indent=2) + "\n"


def _without_required(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_required(item) for key, item in part.items() if not (key == "required" and isinstance(item, list))}
    return [_without_required(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__":
    print(schema_text(), end="")
