"""Which options a task has: ``task`` of an option file -> model."""

from __future__ import annotations

from collections.abc import Mapping

from sr_nas.options.classification import ClassificationSearchOptions, ClassifierTrainOptions
from sr_nas.options.search import SearchOptions
from sr_nas.options.train import TrainOptions

AnySearch = SearchOptions | ClassificationSearchOptions
AnyTraining = TrainOptions | ClassifierTrainOptions

SEARCHES: Mapping[str, type[AnySearch]] = {
    "super-resolution": SearchOptions,
    "classification": ClassificationSearchOptions,
}

TRAININGS: Mapping[str, type[AnyTraining]] = {
    "super-resolution": TrainOptions,
    "classification": ClassifierTrainOptions,
}
