"""The ``genotype`` option: inline, or a path to a file or a run folder."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

from sr_nas.errors import UserError
from sr_nas.genotype import is_genotype_path, read_genotype


def _resolve(source: Any, info: ValidationInfo) -> Any:
    if is_genotype_path(source) and not (info.context or {}).get("check_files", True):
        return source
    try:
        return read_genotype(source)
    except UserError as error:
        raise ValueError(str(error)) from error


_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "object"}],
    "description": "Candidate names in order, a mapping label -> name, a genotype file, or a run folder.",
}

GenotypeSource = Annotated[Any, BeforeValidator(_resolve), WithJsonSchema(_SCHEMA)]
"""Anything that :func:`sr_nas.genotype.genotype_from` takes, or in an option file a path that holds it."""
