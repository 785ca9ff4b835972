"""Options of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from sr_nas.options.component import Of
from sr_nas.options.paths import ExistingFile
from sr_nas.options.sections import Run, TrainSource, ValSource, WeightTraining, patches_fit
from sr_nas.options.strict import Component, Strict
from sr_nas.registry import NETWORKS


class NetworkOptions(Strict):
    """What of an option file says which network it is for."""

    scale: Literal[2, 3, 4]
    network_g: Annotated[Component, Of(NETWORKS)]


class TrainDatasets(Strict):
    """What a training learns from, and what it is judged on."""

    train: TrainSource
    val: ValSource | None = None


class TrainPath(Strict):
    """Where a training reads weights from and writes to."""

    experiments_root: str = "experiments"
    """Folder of all runs."""
    pretrain_network_g: ExistingFile | None = None
    """WeightTraining to start from: an exported file or a search's inherited.safetensors."""
    strict_load_g: bool = True
    """Whether these weights must be all of the network's; false takes those that fit."""


class TrainSection(WeightTraining):
    """How the network is trained."""

    total_iter: PositiveInt
    """Iterations (batches) of the whole training."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""


class Validation(Strict):
    """When the network is measured, by the field's protocol, on datasets.val."""

    val_freq: PositiveInt = 1000
    """Iterations between two validations."""


class TrainOptions(Run):
    """An option file of ``tools/train.py``."""

    datasets: TrainDatasets
    network_g: Annotated[Component, Of(NETWORKS)]
    """The network."""
    path: TrainPath = TrainPath()
    train: TrainSection
    val: Validation = Validation()

    @model_validator(mode="after")
    def _patches_fit(self) -> TrainOptions:
        patches_fit(self.datasets.train, self.scale)
        return self
