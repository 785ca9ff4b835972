"""Options of searches and trainings of classifiers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from sr_nas.options.component import Of
from sr_nas.options.search import SearchPath, SearchSection
from sr_nas.options.sections import AnyRun, WeightSteps
from sr_nas.options.strict import Component, Strict
from sr_nas.registry import CLASSIFICATION_LOSSES, CLASSIFICATION_SPACES, LABELLED


class LabelledSource(Component):
    """A set of labelled images, and how a batch is made of it."""

    of_one_type = frozenset({"name"})

    name: str = ""
    """What to call it in logs; by default its type."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Use the first so many images only; by default all."""
    batch_size_per_gpu: PositiveInt = 64
    """Images per batch; under torchrun for each of the processes that a run is begun with."""
    num_worker_per_gpu: NonNegativeInt = 0
    """Processes that load images, for each of a search's two streams; 0 loads them in the run's own process."""
    crop_padding: NonNegativeInt = 4
    """Pixels of zeros around an image, out of which one of its size is cropped at random; 0 to crop none. Not for
    ``image_folder``, which crops in its own way."""
    use_hflip: bool = True
    """Mirror images left to right at random."""
    cutout: NonNegativeInt = 0
    """Side in pixels of a square that is cut out of each image at random; 0 for none."""


class ClassificationDatasets(Strict):
    """Where a search of a classifier takes its images from."""

    train: Annotated[LabelledSource, Of(LABELLED)]


class ClassifierSteps(WeightSteps):
    """How a classifier's weights are trained."""

    class_opt: Annotated[Component, Of(CLASSIFICATION_LOSSES)] = Field(
        default={"type": "CrossEntropyLoss"}, validate_default=True
    )
    """Task loss."""


class ClassificationSearchOptions(AnyRun):
    """An option file of ``tools/search.py`` for a classifier."""

    task: Literal["classification"]
    """What the network is for; another task has other options."""
    datasets: ClassificationDatasets
    network_g: Annotated[Component, Of(CLASSIFICATION_SPACES)]
    """The supernet."""
    path: SearchPath = SearchPath()
    train: ClassifierSteps = Field(default={}, validate_default=True)
    search: SearchSection
    """How alpha is searched."""
