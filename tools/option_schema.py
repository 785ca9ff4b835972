"""The JSON schema of option files, for editors. ``python tools/option_schema.py > options/schema.json`` renews it."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from sr_nas.analysis.model_table import BenchmarkOptions
from sr_nas.options.strict import Strict
from sr_nas.registry import TASKS
from sr_nas.task import search_options, training_options

BASE = {
    "description": "Option file(s) to inherit from, relative to this one.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def schema_text() -> str:
    """Return one schema for every kind of option file, as JSON. No key is required, since any may come from ``_base_``."""
    kinds: list[type[Strict]] = [*map(search_options, TASKS), *map(training_options, TASKS), BenchmarkOptions]
    _, schema = models_json_schema([(kind, "validation") for kind in kinds])
    for kind in kinds:
        schema["$defs"][kind.__name__]["properties"]["_base_"] = BASE
    head: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sr_nas option file"}
    head["anyOf"] = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds]
    return json.dumps(without_required(head | schema), indent=2) + "\n"


def without_required(part: Any) -> Any:
    """Return a part of a schema without its lists of required keys."""
    if isinstance(part, dict):
        return {key: without_required(item) for key, item in part.items() if not (key == "required" and isinstance(item, list))}
    return [without_required(item) for item in part] if isinstance(part, list) else part


if __name__ == "__main__":
    print(schema_text(), end="")
