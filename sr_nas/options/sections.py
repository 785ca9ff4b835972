"""Sections of the option files of searches and trainings, with BasicSR's key names. Docstrings are the schema's descriptions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema
from typing_extensions import Self, TypeAliasType

from sr_nas.errors import amount
from sr_nas.options.strict import Component, ExistingFile, ExistingFolder, FromRegistry, ModelPath, Strict, WeightsFile
from sr_nas.registry import (
    COSTS,
    DEGRADATIONS,
    LOSSES,
    LR_SCHEDULES,
    NETWORKS,
    OPTIMIZERS,
    PAIRS,
    PERTURBATIONS,
    REGULARIZERS,
    RELAXATIONS,
    SCHEDULES,
    SELECTIONS,
    SPACES,
    STOPS,
)

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Optimizer = Annotated[Component, FromRegistry(OPTIMIZERS)]
Schedule = Annotated[Component, FromRegistry(SCHEDULES)]


def _check_threads(value: Any) -> Any:
    if value != "auto" and not (isinstance(value, int) and 1 <= value <= 1024):
        raise ValueError(f"Input should be auto or a whole number from 1 to 1024 (found {value!r}).")
    return value


Threads = Annotated[Annotated[int, Field(ge=1, le=1024)] | Literal["auto"], BeforeValidator(_check_threads)]


_LISTED = BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str])
Plugins = Annotated[list[str], _LISTED]


class Step(Component):
    """A step that makes LR images worse."""

    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How often it is taken."""
    shuffle: bool = False
    """Whether it is taken in random order with its neighbours in the list that are shuffled too."""


Steps = TypeAliasType("Steps", list[Annotated[Step, FromRegistry(DEGRADATIONS)]])
"""A degradation. It has a name, so that the schema holds it once."""


class Dataset(Component):
    """A source of image pairs."""

    name: str = ""
    """What to call it in tables and logs; by default its type."""
    degradation: Steps | None = None
    """Steps that make LR worse, drawn anew for every patch; of a validation set the same every time."""

    @model_validator(mode="after")
    def _check_degradation(self) -> Self:
        if getattr(self, "dataroot_lq", None) and any(step.type == "downscale" for step in self.degradation or ()):
            raise ValueError("degradation makes LR of HR, since it has downscale, and dataroot_lq names LR images: leave out one")
        return self


class TrainDataset(Dataset):
    """A source of image pairs, and how patches are drawn from it."""

    gt_size: Annotated[int, Field(gt=0, le=2**17)] = 96
    """Side of an HR patch in pixels; a multiple of the scale."""
    batch_size_per_gpu: Annotated[int, Field(gt=0, le=2**16)] = 16
    """Patches per batch; under torchrun for each of the processes that a run is begun with."""
    num_worker_per_gpu: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load patches, for each of a search's two streams; 0 loads them in the run's own process."""
    use_hflip: bool = True
    """Flip patches left to right at random."""
    use_rot: bool = True
    """Flip patches upside down and transpose them at random."""
    hardest_of: Annotated[int, Field(gt=0, le=64)] = 1
    """Random crops that a patch is chosen from: the one that bicubic interpolation misses most."""


class WeightsAndBiases(Strict):
    """A project of Weights & Biases; it needs pip install 'sr_nas[wandb]'."""

    project: str | None = None
    """Its name; without one nothing is written."""
    resume_id: str | None = None
    """Identity of the run there; by default one of its own, which it keeps when it is resumed."""


class Logger(Strict):
    """What a run prints, how often it saves itself, and where its numbers go beside its history."""

    print_freq: PositiveInt = 100
    """Steps between two lines of progress where the output is no terminal."""
    save_checkpoint_freq: PositiveInt | None = None
    """Steps between two checkpoints; by default one per epoch of a search, one per validation of a training."""
    use_tb_logger: bool = False
    """Also write TensorBoard events, into tb/ of the run; they need pip install 'sr_nas[tensorboard]'."""
    wandb: WeightsAndBiases = WeightsAndBiases()
    """Also write to Weights & Biases."""


class OutputPath(Strict):
    """Where results are written."""

    experiments_root: str = "experiments"
    """Folder of all runs."""


class WeightSteps(Strict):
    """Optimisation of the network's weights."""

    optim_g: Optimizer = Field(default={"type": "Adam"}, validate_default=True)
    """Optimizer of the network's weights."""
    scheduler: Annotated[Component, FromRegistry(LR_SCHEDULES)] = Field(default={"type": "ConstantLR"}, validate_default=True)
    """Learning rate over the run; counted in epochs for a search, in iterations for a training."""
    grad_clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; by default there is no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs forward passes under bfloat16 autocast."""


class WeightTraining(WeightSteps):
    """Optimisation of a super-resolution network's weights."""

    pixel_opt: Annotated[Component, FromRegistry(LOSSES)] = Field(default={"type": "L1Loss"}, validate_default=True)
    """Task loss."""
    start: Literal["random", "nearest"] = "random"
    """nearest: begin near nearest-neighbour upscaling instead of noise, which short trainings gain most from."""


class AnyRun(Strict):
    """Keys of every search and training."""

    name: RunName
    """Name of the run and of its folder."""
    plugin: Plugins | None = None
    """Python file, or several, that register what this file names; their paths are relative to the file that names them."""
    manual_seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Seed of everything random."""
    num_gpu: Literal["auto", 0, 1] = "auto"
    """auto: CUDA, else MPS, else CPU; 0: CPU; 1: an accelerator, which must exist. Under torchrun for each process."""
    num_threads: Threads = "auto"
    """Threads on the CPU, kept when a run is resumed. auto: OMP_NUM_THREADS where it is set, else the quickest of 1, 2, 4, ..."""
    logger: Logger = Logger()
    task: str
    datasets: Any
    network_g: Component


class SuperResolutionRun(Strict):
    """Keys of every search and training of super-resolution."""

    task: Literal["super-resolution"] = "super-resolution"
    """What the network is for; another task has other options."""
    scale: Literal[2, 3, 4]
    """Upscaling factor."""
    datasets: Any
    train: WeightTraining

    @model_validator(mode="after")
    def _check_patch_size(self) -> Self:
        size: int = self.datasets.train.gt_size
        if size % self.scale:
            raise ValueError(f"datasets.train.gt_size {size} is not a multiple of the scale {self.scale}")
        for loss in filter(None, (self.train.pixel_opt, getattr(self.train, "distill_opt", None))):
            needs_above = getattr(LOSSES.get(loss.type), "needs_above", None)
            if needs_above and size <= (limit := needs_above(**loss.arguments())):
                raise ValueError(f"datasets.train.gt_size {size} is not above {limit}, as {loss.type} needs it")
        return self


TrainSource = Annotated[TrainDataset, FromRegistry(PAIRS)]
ValSource = Annotated[Dataset, FromRegistry(PAIRS)]


class Regularizer(Component):
    """A regulariser of alpha with its strength."""

    schedule: Schedule = Field(default={"type": "constant"}, validate_default=True)
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
    scheduler: Annotated[Component, FromRegistry(LR_SCHEDULES)] | None = None
    """Learning rate of alpha over the epochs; by default it stays."""


_COST_WEIGHTS: dict[str, Any] = {
    f"{name}_weight": (NonNegativeFloat, Field(0.0, description=f"Weight of the {name} term in alpha's loss."))
    for name in COSTS.names()
}
_CostWeights: Any = create_model("CostWeights", __base__=Strict, **_COST_WEIGHTS)


def _amount(value: Any) -> Any:
    try:
        return amount(value) if isinstance(value, str) else value
    except ValueError:
        return value  # which is refused as no number


Amount = Annotated[PositiveFloat, BeforeValidator(_amount, json_schema_input_type=PositiveFloat | str)]

_BUDGETS: dict[str, Any] = {
    name: (Amount | None, Field(None, description=f"Most {name} that the network may have.")) for name in COSTS.names()
}
_Budgets: Any = create_model("Budgets", __base__=Strict, **_BUDGETS)


class Budget(_Budgets):
    """Most that the whole searched network may cost, such as 1.5e10 or 15G. Every registered cost is a key."""

    def limits(self) -> dict[str, float]:
        """Registered cost -> its budget, for all that have one."""
        return {name: limit for name in COSTS.names() if (limit := getattr(self, name)) is not None}


class OverEpochs(Strict):
    """Numbers of the supernet, or of alpha, that change from epoch to epoch e = 1, 2, ..."""

    auxiliary_skip: Schedule | None = None
    """Weight of a skip connection beside every mixed operation (DARTS-), which no network has."""
    drop_path: Schedule | None = None
    """Probability that the output of a mixed operation is left out for an image."""
    skip_dropout: Schedule | None = None
    """Probability that a number in the output of a candidate skip_connect of stride 1 is 0 (P-DARTS)."""
    operations_kept: Schedule | None = None
    """Most candidates that a choice of an operation has; those of the smallest alpha are dropped, and never return."""

    def schedules(self) -> dict[str, Any]:
        """Name -> schedule, for all that have one."""
        return {name: section for name in type(self).model_fields if (section := getattr(self, name)) is not None}


class CandidatesFrom(Strict):
    """An earlier search, which says with what candidates this one begins."""

    run: ExistingFolder
    """Its run folder."""
    operations: Annotated[int, Field(ge=2, le=10**6)]
    """How many candidates each choice of an operation keeps: those of the largest beta at the end of that search."""


class SearchSection(_CostWeights):
    """How the architecture is searched. Every registered cost has a key here, its name with the suffix ``_weight``."""

    budget: Budget = Budget()
    """What the network may cost at most; one alone or several together."""
    latency_table: ExistingFile | None = None
    """Table of this device by tools/latency.py, which a weight or budget of latency_ms needs."""
    foreign_latency: bool = False
    """Take a table that was measured on another machine."""

    epochs: NonNegativeInt
    """Length of the search; 0 keeps the genotype of alpha's start, with init normal a random network."""
    steps_per_epoch: PositiveInt | None = None
    """Pairs of an alpha and a weight step; by default as many as the training half has batches."""
    warmup_epochs: NonNegativeInt = 0
    """Epochs at the start, or of every restart, in which only weights are trained."""
    restarts: PositiveInt = 1
    """Times that the search begins anew, from other weights, each with its share of the epochs; a divisor of their number.

    The network is that of the geometric mean of beta at their ends."""
    order: Literal["first", "second"] = "first"
    """second differentiates alpha through a look-ahead step of the weights."""
    hessian: Literal["exact", "finite_difference"] = "exact"
    """How second order takes the derivative through the look-ahead: exactly, or as DARTS (eq. 8) in the memory of first order."""
    xi: NonNegativeFloat | None = None
    """Learning rate of the look-ahead step; by default the weights' current one, which of Adam is none for a plain gradient."""
    look_ahead: Literal["gradient", "sgd"] = "gradient"
    """What the look-ahead step follows: the gradient (DARTS, eq. 7), or with SGD its momentum and weight decay too (its code)."""
    level: Literal["bilevel", "single"] = "bilevel"
    """single: alpha and weights descend on the same batches of all images, by one backward pass (SNAS)."""
    alpha_loss: Literal["val", "train+val"] = "val"
    """Batches whose task loss alpha descends on: of the validation half, or the sum of both (DLSR)."""
    cuda_graph: Literal["auto"] | bool = False
    """Record steps as CUDA graphs and replay them, on one GPU, without a relaxation that draws, with optimizers of PyTorch; auto:
    where that is so."""
    split: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the images that trains the weights; the others train alpha."""
    relaxation: Annotated[Component, FromRegistry(RELAXATIONS)] = Field(default={"type": "softmax"}, validate_default=True)
    """From alpha to the weights of the candidates."""
    perturbation: Annotated[Component, FromRegistry(PERTURBATIONS)] | None = None
    """What happens to the weights of the candidates in the step of the supernet's weights alone; by default nothing."""
    selection: Annotated[Component, FromRegistry(SELECTIONS)] = Field(default={"type": "argmax"}, validate_default=True)
    """How the network is chosen when the last epoch is done."""
    regularizer: Annotated[Regularizer, FromRegistry(REGULARIZERS)] = Field(default={"type": "none"}, validate_default=True)
    """Extra loss on alpha."""
    further_regularizer: Annotated[Regularizer, FromRegistry(REGULARIZERS)] | None = None
    """A second extra loss on alpha, of which the history has no strength."""
    alpha: Alpha = Field(default={}, validate_default=True)
    over_epochs: OverEpochs = OverEpochs()
    candidates_from: CandidatesFrom | None = None
    """In the DARTS space, an earlier search that says which candidates are built (P-DARTS); by default those of network_g are."""
    stop: Annotated[Component, FromRegistry(STOPS)] | None = None
    """When the search ends before its last epoch; by default it never does."""

    @model_validator(mode="after")
    def _check_order_and_epochs(self) -> SearchSection:
        if self.epochs % self.restarts:
            raise ValueError(f"{self.restarts} restarts cannot share {self.epochs} epochs equally")
        if self.restarts > 1 and self.stop is not None:
            raise ValueError(f"stop ends a single search, and restarts {self.restarts} are several")
        if self.epochs and self.warmup_epochs >= (own := self.epochs // self.restarts):
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of the {own} epochs for alpha")
        if self.order == "first" and self.xi is not None:
            raise ValueError("xi belongs to order: second; a first-order search has no look-ahead step")
        if self.order == "first" and self.hessian != "exact":
            raise ValueError("hessian belongs to order: second; a first-order search has no second derivative")
        if self.order == "first" and self.look_ahead != "gradient":
            raise ValueError("look_ahead belongs to order: second; a first-order search has no look-ahead step")
        if self.level == "single" and (self.order == "second" or self.alpha_loss != "val" or self.perturbation):
            raise ValueError("level: single has one step for alpha and weights: no order second, alpha_loss or perturbation")
        if not self.epochs and self.selection.type != "argmax":
            raise ValueError(f"selection {self.selection.type} follows the last step, and epochs 0 has none; 1 of one step has")
        return self

    def costs(self) -> dict[str, float]:
        """Registered cost -> its weight, for all weights above 0."""
        weights = {name: getattr(self, f"{name}_weight") for name in COSTS.names()}
        return {name: weight for name, weight in weights.items() if weight}


class SearchDatasets(Strict):
    """Images of a search."""

    train: TrainSource


class AnySearch(AnyRun):
    """Keys of the searches of every task."""

    path: OutputPath = OutputPath()
    train: WeightSteps
    search: SearchSection
    """How alpha is searched."""

    @model_validator(mode="after")
    def _check_look_ahead(self) -> Self:
        if self.search.look_ahead == "sgd" and self.train.optim_g.type != "SGD":
            raise ValueError(f"search.look_ahead: sgd needs train.optim_g of type SGD, not {self.train.optim_g.type}")
        return self


class SearchOptions(SuperResolutionRun, AnySearch):
    """An option file of ``tools/search.py``."""

    datasets: SearchDatasets
    network_g: Annotated[Component, FromRegistry(SPACES)]
    """The supernet."""
    train: WeightTraining = Field(default={}, validate_default=True)


def _zero_or_above_one(value: float) -> float:
    if 0 < value <= 1:
        raise ValueError(f"must be above 1, or null, and {value:g} is not")
    return value


# Null becomes 0, because a dump of options leaves out what is null.
DivergenceFactor = Annotated[
    float,
    Field(ge=0),
    AfterValidator(_zero_or_above_one),
    BeforeValidator(lambda value: 0.0 if value is None else value, json_schema_input_type=float | None),
]


class NetworkOptions(Strict):
    """The part of an option file that describes its network."""

    scale: Literal[2, 3, 4]
    network_g: Annotated[Component, FromRegistry(NETWORKS)]


class Validated(Strict):
    """Data sets of which ``val`` and further keys with this prefix, such as ``val_2``, are validation sets."""

    model_config = ConfigDict(extra="allow")
    more_keys: ClassVar[str] = "val"

    def validation(self) -> dict[str, Any]:
        """Name in tables and logs -> section, for all validation sets."""
        return {section.name or section.type: section for section in self._sections().values()}

    def _sections(self) -> dict[str, Any]:
        sections: dict[str, Any] = {"val": getattr(self, "val", None), **(self.model_extra or {})}
        return {key: section for key, section in sections.items() if section is not None}

    @model_validator(mode="after")
    def _check_names(self) -> Validated:
        keys: dict[str, str] = {}
        for key, section in self._sections().items():
            name = section.name or section.type
            if name in keys:
                raise ValueError(f"{keys[name]} and {key} are both called '{name}': give one of them another name")
            keys[name] = key
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(schema)
        definition = handler.resolve_ref_schema(reference)
        definition["patternProperties"] = {f"^{cls.more_keys}": definition["additionalProperties"]}
        definition["additionalProperties"] = False
        return reference


class TrainDatasets(Validated):
    """Images of a training: ``train``, and for validation ``val`` and further keys with this prefix, such as ``val_2``."""

    __pydantic_extra__: dict[str, ValSource | None]

    train: TrainSource
    val: ValSource | None = None
    """Judges which network is the best, or where it is left out, the first of the further sets."""


class TrainPath(OutputPath):
    """Where a training reads weights from and writes to."""

    pretrain_network_g: WeightsFile | None = None
    """Weights to start from: an exported file, a search's inherited.safetensors, a .pth or .pt of BasicSR's kind, or a name that
    `sr-nas models` lists."""
    param_key_g: str | None = None
    """Which of several networks in a .pth is meant; by default params_ema where it has one, else params."""
    strict_load_g: bool = True
    """Whether these weights must be all of the network's; false takes those that fit, for x3 and x4 all of x2's but the tail."""


class Distill(Component):
    """Knowledge distillation: a loss between a teacher's output and the network's, added to the task loss."""

    teacher: ModelPath
    """An exported .safetensors file, the folder of a training, or a name that `sr-nas models` lists, of the same scale."""


class Iterations(WeightSteps):
    """Optimisation of a network's weights in a training of any task."""

    total_iter: PositiveInt
    """Iterations of the whole training."""
    accumulate: PositiveInt = 1
    """Batches of an iteration, which descends on the mean of their losses: as one of so many times the size, in its memory."""
    warmup_iter: Annotated[int, Field(ge=-1)] = 0
    """Iterations over which the learning rate grows linearly to the scheduler's; 0 or -1 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"  # type: ignore[assignment] # a search has fewer
    """Of forward passes under autocast. auto: bf16 on a CUDA device that computes in it, fp16 on others, fp32 elsewhere."""
    compile: bool = False
    """Compile the network with torch.compile: a slow start, then faster iterations."""
    divergence_factor: DivergenceFactor = 10.0
    """Stop where the mean loss of 100 iterations is so many times the lowest such mean; null or 0 to go on whatever happens."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, which is what is validated and kept; 0 keeps the weights themselves."""


class TrainSection(Iterations, WeightTraining):
    """How the network is trained."""

    reparam: Literal["none", "ecb", "repconv", "conv3xc"] = "none"
    """Branches beside every dense 3x3 convolution, in the training alone: what is kept has one convolution for them."""
    distill_opt: Annotated[Distill, FromRegistry(LOSSES)] | None = None
    """Knowledge distillation from a teacher; its type is a loss."""


class Validation(Strict):
    """When the network is measured on datasets.val and its like."""

    val_freq: PositiveInt = 1000
    """Iterations between two validations."""


class AnyTraining(AnyRun):
    """Keys of the trainings of every task."""

    path: TrainPath = TrainPath()
    train: Iterations
    val: Validation = Validation()


class TrainOptions(SuperResolutionRun, AnyTraining):
    """An option file of ``tools/train.py``."""

    datasets: TrainDatasets
    network_g: Annotated[Component, FromRegistry(NETWORKS)]
    """The network."""
    train: TrainSection
