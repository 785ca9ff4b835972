"""The ``genotype`` option: inline, or a path to a file or a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from sr_nas.errors import UserError
from sr_nas.genotype import Genotype, is_genotype_path, read_genotype


def _resolve(source: Any, info: ValidationInfo) -> Any:
    if is_genotype_path(source) and not (info.context or {}).get("check_files", True):
        return source
    try:
        return read_genotype(source)
    except UserError as error:
        raise ValueError(str(error)) from error


GenotypeSource = Annotated[Sequence[str] | dict[str, Any] | str | Genotype, BeforeValidator(_resolve)]
"""Candidate names in order, a mapping label -> name, names separated by commas, a genotype file or a run folder."""
