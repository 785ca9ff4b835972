"""Options of a training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, PositiveInt, model_validator
from pydantic_core import CoreSchema

from sr_nas.options.sections import (
    AnyRun,
    Logger,
    OutputPath,
    Run,
    TrainSource,
    ValSource,
    WeightSteps,
    WeightTraining,
    check_patch_size,
)
from sr_nas.options.strict import Component, ExistingFile, ExistingPath, Of, Strict
from sr_nas.registry import LOSSES, NETWORKS


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
    network_g: Annotated[Component, Of(NETWORKS)]


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

    pretrain_network_g: ExistingFile | None = None
    """Weights to start from: an exported file, a search's inherited.safetensors, or a .pth or .pt of BasicSR's kind."""
    param_key_g: str | None = None
    """Which of several networks in a .pth is meant; by default params_ema where it has one, else params."""
    strict_load_g: bool = True
    """Whether these weights must be all of the network's; false takes those that fit, for x3 and x4 all of x2's but the tail."""


class TrainLogger(Logger):
    """What a training prints, and how often it saves itself."""

    use_tb_logger: bool = False
    """Also write TensorBoard events, into tb/ of the run; they need pip install 'sr_nas[tensorboard]'."""


class Distill(Component):
    """Knowledge distillation: a loss between a teacher's output and the network's, added to the task loss."""

    teacher: ExistingPath
    """An exported .safetensors file or the folder of a training, of the same scale."""


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

    distill_opt: Annotated[Distill, Of(LOSSES)] | None = None
    """Knowledge distillation from a teacher; its type is a loss."""


class Validation(Strict):
    """When the network is measured on datasets.val and its like."""

    val_freq: PositiveInt = 1000
    """Iterations between two validations."""


class AnyTraining(AnyRun):
    """Keys of the trainings of every task."""

    datasets: Any
    network_g: Component
    """The network."""
    logger: TrainLogger = TrainLogger()
    path: TrainPath = TrainPath()
    train: Iterations
    val: Validation = Validation()


class TrainOptions(AnyTraining, Run):
    """An option file of ``tools/train.py``."""

    task: Literal["super-resolution"] = "super-resolution"
    """What the network is for; another task has other options."""
    datasets: TrainDatasets
    network_g: Annotated[Component, Of(NETWORKS)]
    """The network."""
    train: TrainSection

    @model_validator(mode="after")
    def _check_patch_size(self) -> TrainOptions:
        distillation = [] if self.train.distill_opt is None else [self.train.distill_opt]
        check_patch_size(self.datasets.train, self.scale, self.train.pixel_opt, *distillation)
        return self
