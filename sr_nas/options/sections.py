"""Sections that option files of searches and trainings share, with BasicSR's key names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints

from sr_nas.options.strict import Component, Of, Strict
from sr_nas.registry import LOSSES, LR_SCHEDULES, OPTIMIZERS, PAIRS

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Optimizer = Annotated[Component, Of(OPTIMIZERS)]


class Dataset(Component):
    """A source of image pairs."""

    name: str = ""
    """What to call it in tables and logs; by default its type."""


class TrainDataset(Dataset):
    """A source of image pairs, and how patches are drawn from it."""

    gt_size: PositiveInt = 96
    """Side of an HR patch in pixels; a multiple of the scale."""
    batch_size_per_gpu: PositiveInt = 16
    """Patches per batch; under torchrun for each of the processes that a run is begun with."""
    num_worker_per_gpu: NonNegativeInt = 0
    """Processes that load patches, for each of a search's two streams; 0 loads them in the run's own process."""
    use_hflip: bool = True
    """Flip patches left to right at random."""
    use_rot: bool = True
    """Flip patches upside down and transpose them at random."""


class Logger(Strict):
    """What a run prints, and how often it saves itself."""

    print_freq: PositiveInt = 100
    """Steps between two lines of progress where the output is no terminal."""
    save_checkpoint_freq: PositiveInt | None = None
    """Steps between two checkpoints; by default one per epoch of a search, one per validation of a training."""


class OutputPath(Strict):
    """Where results are written."""

    experiments_root: str = "experiments"
    """Folder of all runs."""


class WeightSteps(Strict):
    """Optimisation of the network's weights."""

    optim_g: Optimizer = Field(default={"type": "Adam"}, validate_default=True)
    """Optimizer of the network's weights."""
    scheduler: Annotated[Component, Of(LR_SCHEDULES)] = Field(default={"type": "ConstantLR"}, validate_default=True)
    """Learning rate over the run; counted in epochs for a search, in iterations for a training."""
    grad_clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; by default there is no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs forward passes under bfloat16 autocast."""


class WeightTraining(WeightSteps):
    """Optimisation of a super-resolution network's weights."""

    pixel_opt: Annotated[Component, Of(LOSSES)] = Field(default={"type": "L1Loss"}, validate_default=True)
    """Task loss."""


class AnyRun(Strict):
    """Keys of every search and training."""

    name: RunName
    """Name of the run and of its folder."""
    manual_seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    """Seed of everything random."""
    num_gpu: Literal["auto", 0, 1] = "auto"
    """auto: CUDA, else MPS, else CPU; 0: CPU; 1: an accelerator, which must exist. Under torchrun for each process."""
    logger: Logger = Logger()
    task: str


class Run(AnyRun):
    """Keys of every search and training of super-resolution."""

    scale: Literal[2, 3, 4]
    """Upscaling factor."""


def check_patch_size(dataset: TrainDataset, scale: int, *losses: Component) -> None:
    """Check that HR patches are ``scale`` times LR patches, and large enough for the losses.

    Raises:
        ValueError: they are not.
    """
    if dataset.gt_size % scale:
        raise ValueError(f"datasets.train.gt_size {dataset.gt_size} is not a multiple of the scale {scale}")
    for loss in losses:
        needs_above = getattr(LOSSES.get(loss.type), "needs_above", None)
        if needs_above is not None and dataset.gt_size <= (limit := needs_above(**loss.arguments())):
            raise ValueError(f"datasets.train.gt_size {dataset.gt_size} is not above {limit}, as {loss.type} needs it")


TrainSource = Annotated[TrainDataset, Of(PAIRS)]
ValSource = Annotated[Dataset, Of(PAIRS)]
