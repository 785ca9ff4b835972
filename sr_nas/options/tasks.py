"""Which options a task has: ``task`` of an option file -> model."""

from __future__ import annotations

from collections.abc import Mapping

from sr_nas.options.classification import ClassificationSearchOptions
from sr_nas.options.search import SearchOptions

AnySearch = SearchOptions | ClassificationSearchOptions

SEARCHES: Mapping[str, type[AnySearch]] = {
    "super-resolution": SearchOptions,
    "classification": ClassificationSearchOptions,
}
