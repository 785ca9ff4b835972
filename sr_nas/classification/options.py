"""Option models of searches and trainings of classifiers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from sr_nas.options.sections import AnySearch, AnyTraining, Iterations, Validated, WeightSteps
from sr_nas.options.strict import Component, Of, Strict
from sr_nas.registry import CLASSIFICATION_LOSSES, CLASSIFICATION_SPACES, CLASSIFIERS, LABELLED


class LabelledImages(Component):
    """A set of labelled images, without augmentation."""

    name: str = ""
    """What to call it in logs; by default its type."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Use the first so many images only; by default all."""
    batch_size_per_gpu: PositiveInt = 64
    """Images per batch; under torchrun for each of the processes that a run is begun with."""
    num_worker_per_gpu: NonNegativeInt = 0
    """Processes that load images, for each of a search's two streams; 0 loads them in the run's own process."""


class LabelledSource(LabelledImages):
    """A set of labelled images, and how they are augmented."""

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


class ClassificationSearchOptions(AnySearch):
    """An option file of ``tools/search.py`` for a classifier."""

    task: Literal["classification"]
    """What the network is for; another task has other options."""
    datasets: ClassificationDatasets
    network_g: Annotated[Component, Of(CLASSIFICATION_SPACES)]
    """The supernet."""
    train: ClassifierSteps = Field(default={}, validate_default=True)


class ClassifierDatasets(Validated):
    """What a classifier learns from, part ``train`` of a set, and what it is judged on: part ``test`` of ``val`` and its like."""

    __pydantic_extra__: dict[str, Annotated[LabelledImages, Of(LABELLED)] | None]

    train: Annotated[LabelledSource, Of(LABELLED)]
    val: Annotated[LabelledImages, Of(LABELLED)] | None = None
    """Judges which network is the best, or where it is left out, the first of the further sets."""


class ClassifierTraining(Iterations, ClassifierSteps):
    """How a classifier is trained."""

    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the loss of an auxiliary head, of a network that has one."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of leaving an operation out for an image; it rises to this from 0, epoch by epoch, as in DARTS."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""


class ClassifierTrainOptions(AnyTraining):
    """An option file of ``tools/train.py`` for a classifier."""

    task: Literal["classification"]
    """What the network is for; another task has other options."""
    datasets: ClassifierDatasets
    network_g: Annotated[Component, Of(CLASSIFIERS)]
    """The network; how many classes there are, the images tell."""
    train: ClassifierTraining
