"""Options of a search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, create_model, model_validator

from sr_nas.options.sections import AnyRun, Optimizer, OutputPath, Run, TrainSource, WeightSteps, WeightTraining, check_patch_size
from sr_nas.options.strict import Component, Of, Strict
from sr_nas.registry import COSTS, REGULARIZERS, RELAXATIONS, SCHEDULES, SPACES

SUFFIX = "_weight"


class Regularizer(Component):
    """A regulariser of alpha with its strength."""

    schedule: Annotated[Component, Of(SCHEDULES)] = Field(default={"type": "constant"}, validate_default=True)
    """lambda_e over the epochs e = 1, 2, ..."""
    on_inputs: bool = False
    """Whether choices of inputs are regularised too, and not operations alone."""


class Alpha(Strict):
    """How alpha starts and moves."""

    init: Literal["normal", "constant"] = "normal"
    """normal: value * N(0, 1); constant: value."""
    value: float = 1e-3
    """See init."""
    offset: dict[str, float] = Field(default_factory=dict)
    """Candidate name -> added to its alpha at the start, wherever it stands."""
    optim: Optimizer = Field(
        default={"type": "Adam", "lr": 3e-4, "weight_decay": 1e-8, "betas": (0.5, 0.999)}, validate_default=True
    )
    """Optimizer of alpha."""


_COST_WEIGHTS: dict[str, Any] = {
    name + SUFFIX: (NonNegativeFloat, Field(0.0, description=f"Weight of the {name} term in alpha's loss."))
    for name in COSTS.names()
}
_CostWeights: Any = create_model("CostWeights", __base__=Strict, **_COST_WEIGHTS)


class SearchSection(_CostWeights):
    """How the architecture is searched. Every registered cost has a key here, its name with the suffix ``_weight``."""

    epochs: NonNegativeInt
    """Length of the search; 0 keeps the genotype of alpha's start, with init normal a random network."""
    steps_per_epoch: PositiveInt | None = None
    """Pairs of an alpha and a weight step; by default as many as the training half has batches."""
    warmup_epochs: NonNegativeInt = 0
    """Epochs at the start in which only weights are trained."""
    order: Literal["first", "second"] = "first"
    """second differentiates alpha through a look-ahead step of the weights."""
    hessian: Literal["exact", "finite_difference"] = "exact"
    """How second order takes the derivative through the look-ahead: exactly, or as DARTS (eq. 8) in the memory of first order."""
    xi: NonNegativeFloat | None = None
    """Learning rate of the look-ahead step; by default the weights' current one."""
    alpha_loss: Literal["val", "train+val"] = "val"
    """Batches whose task loss alpha descends on: of the validation half, or the sum of both (DLSR)."""
    split: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the images that trains the weights; the others train alpha."""
    relaxation: Annotated[Component, Of(RELAXATIONS)] = Field(default={"type": "softmax"}, validate_default=True)
    """From alpha to the weights of the candidates."""
    regularizer: Annotated[Regularizer, Of(REGULARIZERS)] = Field(default={"type": "none"}, validate_default=True)
    """Extra loss on alpha."""
    alpha: Alpha = Field(default={}, validate_default=True)

    @model_validator(mode="after")
    def _check_order_and_epochs(self) -> SearchSection:
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of the {self.epochs} epochs for alpha")
        if self.order == "first" and self.xi is not None:
            raise ValueError("xi belongs to order: second; a first-order search has no look-ahead step")
        if self.order == "first" and self.hessian != "exact":
            raise ValueError("hessian belongs to order: second; a first-order search has no second derivative")
        return self

    def costs(self) -> dict[str, float]:
        """Registered cost -> its weight, for all weights above 0."""
        weights = {name: getattr(self, name + SUFFIX) for name in COSTS.names()}
        return {name: weight for name, weight in weights.items() if weight}


class SearchDatasets(Strict):
    """Images of a search."""

    train: TrainSource


class AnySearch(AnyRun):
    """Keys of the searches of every task."""

    datasets: Any
    network_g: Component
    """The supernet."""
    path: OutputPath = OutputPath()
    train: WeightSteps
    search: SearchSection
    """How alpha is searched."""


class SearchOptions(AnySearch, Run):
    """An option file of ``tools/search.py``."""

    task: Literal["super-resolution"] = "super-resolution"
    """What the network is for; another task has other options."""
    datasets: SearchDatasets
    network_g: Annotated[Component, Of(SPACES)]
    """The supernet."""
    train: WeightTraining = Field(default={}, validate_default=True)

    @model_validator(mode="after")
    def _check_patch_size(self) -> SearchOptions:
        check_patch_size(self.datasets.train, self.scale, self.train.pixel_opt)
        return self
