"""From options to objects: the one file that sees spaces and search together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sr_nas.classification.labelled import Labelled, LabelledDataset
from sr_nas.classification.training import DropPathSchedule, with_auxiliary
from sr_nas.complexity.costs import cost_table
from sr_nas.contracts import SRNetwork
from sr_nas.data.loader import ResumableLoader, split_indices
from sr_nas.data.pairs import Pairs
from sr_nas.data.patches import PatchDataset
from sr_nas.errors import UserError, listing
from sr_nas.export.model import load_model, start_from, starting_tensors
from sr_nas.optim import WarmUp
from sr_nas.options.classification import ClassificationSearchOptions, ClassifierTrainOptions, LabelledSource
from sr_nas.options.search import SearchOptions
from sr_nas.options.sections import Dataset, TrainDataset, WeightSteps
from sr_nas.options.strict import Component
from sr_nas.options.tasks import AnySearch, AnyTraining
from sr_nas.options.train import Distill, TrainOptions
from sr_nas.registry import (
    CLASSIFICATION_LOSSES,
    CLASSIFICATION_SPACES,
    CLASSIFIERS,
    LABELLED,
    LOSSES,
    LR_SCHEDULES,
    NETWORKS,
    OPTIMIZERS,
    PAIRS,
    REGULARIZERS,
    RELAXATIONS,
    SCHEDULES,
    SPACES,
    Registry,
)
from sr_nas.runs.device import Precision
from sr_nas.runs.distributed import rank, world_size
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective
from sr_nas.search.searcher import Plan, Searcher
from sr_nas.trainer import Distillation, DivergenceWatch, Trainer, check_compiler

# Each random thing has a generator of its own, so that changing one does not change the others.
ALPHA_SEED, TRAINING_SEED, VALIDATION_SEED, RELAXATION_SEED, DROP_PATH_SEED = 1, 2, 3, 4, 5


def bound(registry: Registry[Callable[..., Any]], section: Component) -> Callable[..., Any]:
    """Return the registered function with the options of its section filled in."""
    return partial(registry.get(section.type), **section.arguments())


def build_pairs(section: Dataset, scale: int) -> Pairs:
    """Open a data set."""
    return bound(PAIRS, section)(scale=scale)


def build_network(section: Component, scale: int) -> SRNetwork:
    """Build a plain network, freshly initialised."""
    return bound(NETWORKS, section)(scale=scale)


@dataclass(frozen=True)
class Task:
    """What a search or a training does not share with one of another task.

    Attributes:
        module: the supernet of a search, the network of a training; on the CPU.
        loss: task loss.
        images: that it learns from.
        dataset: seed -> samples, addressed by (image, running number).
    """

    module: Any
    loss: Callable[..., torch.Tensor]
    images: Pairs | Labelled
    dataset: Callable[[int], torch.utils.data.Dataset[Any]]


def _super_resolution(options: SearchOptions | TrainOptions, modules: Registry[Callable[..., Any]]) -> Task:
    section = options.datasets.train
    pairs = build_pairs(section, options.scale)
    return Task(
        bound(modules, options.network_g)(scale=options.scale),
        bound(LOSSES, options.train.pixel_opt),
        pairs,
        lambda seed: PatchDataset(pairs, section.gt_size, section.use_hflip, section.use_rot, seed),
    )


def _classification(options: ClassificationSearchOptions | ClassifierTrainOptions, modules: Registry[Callable[..., Any]]) -> Task:
    section = options.datasets.train
    images = bound(LABELLED, section)(part="train").first(section.limit)
    return Task(
        bound(modules, options.network_g)(num_classes=len(images.classes)),
        bound(CLASSIFICATION_LOSSES, options.train.class_opt),
        images,
        lambda seed: LabelledDataset(images, section.crop_padding, section.use_hflip, section.cutout, seed),
    )


def build_searcher(options: AnySearch, device: torch.device, begun_with: int = 1) -> Searcher:
    """Build everything a search needs, on ``device``.

    Args:
        options: checked options.
        device: of this process.
        begun_with: number of processes that the run was begun with; its batch is ``batch_size_per_gpu`` for each of
            them, however many share it now.

    Raises:
        UserError: data that cannot be read or that is too little to search with.
    """
    seed, plan = options.manual_seed, options.search
    torch.manual_seed(seed)
    if isinstance(options, ClassificationSearchOptions):
        built = _classification(options, CLASSIFICATION_SPACES)
    else:
        built = _super_resolution(options, SPACES)
    space = built.module.to(device)
    halves = split_indices(len(built.images), seed, plan.split)
    training, validation = (
        _stream(built.dataset(seed + offset), options.datasets.train, indices, seed + offset, begun_with)
        for indices, offset in zip(halves, (TRAINING_SEED, VALIDATION_SEED), strict=True)
    )
    alpha = Alpha(
        space.choices(),
        plan.alpha.init,
        plan.alpha.value,
        plan.alpha.offset,
        torch.Generator().manual_seed(seed + ALPHA_SEED),
    ).to(device)
    objective = Objective(
        task=built.loss,
        regularizer=bound(REGULARIZERS, plan.regularizer),
        strength=bound(SCHEDULES, plan.regularizer.schedule),
        regularized={
            label: choice for label, choice in space.choices().items() if choice.of == "operations" or plan.regularizer.on_inputs
        },
        costs={name: (weight, _on(cost_table(space, name), device)) for name, weight in plan.costs().items()},
    )
    weight_optimizer = bound(OPTIMIZERS, options.train.optim_g)(space.parameters())
    return Searcher(
        space=space,
        alpha=alpha,
        relaxation=bound(RELAXATIONS, plan.relaxation),
        objective=objective,
        training=training,
        validation=validation,
        weight_optimizer=weight_optimizer,
        alpha_optimizer=bound(OPTIMIZERS, plan.alpha.optim)(alpha.parameters()),
        scheduler=_lr_schedule(options.train, weight_optimizer, plan.epochs),
        plan=Plan(
            epochs=plan.epochs,
            steps_per_epoch=plan.steps_per_epoch or training.batches_per_pass,
            warmup_epochs=plan.warmup_epochs,
            second_order=plan.order == "second",
            finite_difference=plan.hessian == "finite_difference",
            xi=plan.xi,
            alpha_on_both=plan.alpha_loss == "train+val",
            grad_clip_norm=options.train.grad_clip_norm,
            precision=options.train.precision,
            seed=seed + RELAXATION_SEED,
        ),
    )


def build_training(options: AnyTraining) -> tuple[Task, list[str]]:
    """Open the images of a training and build its network with its starting weights, and lines that say where they are from.

    Raises:
        UserError: images or starting weights that cannot be read or do not fit.
    """
    torch.manual_seed(options.manual_seed)
    if isinstance(options, ClassifierTrainOptions):
        task = _classification(options, CLASSIFIERS)
    else:
        task = _super_resolution(options, NETWORKS)
    start = options.path.pretrain_network_g
    if start is None:
        return task, []
    tensors, taken = starting_tensors(Path(start), options.path.param_key_g)
    new, total = start_from(task.module, start, tensors, options.path.strict_load_g)
    fresh = f"; new: {listing(new, 5)}" if new else ""
    return task, [f"starting from {start}{taken}: {total - len(new)} of {total} tensors fit{fresh}"]


def build_trainer(options: AnyTraining, task: Task, device: torch.device, precision: Precision, begun_with: int = 1) -> Trainer:
    """Build everything a training needs, on ``device``, around its network, which is moved there.

    Args:
        options: checked options.
        task: its images and its network, with starting weights.
        device: of this process.
        precision: of forward passes.
        begun_with: number of processes that the run was begun with, as for :func:`build_searcher`.

    Raises:
        UserError: a teacher that cannot be read, no compiler where one is asked for, or drop-path for a network without it.
    """
    plan, seed = options.train, options.manual_seed + TRAINING_SEED
    if plan.compile:
        check_compiler(device)
    network = task.module.to(device)
    optimizer = bound(OPTIMIZERS, plan.optim_g)(network.parameters())
    stream = _stream(task.dataset(seed), options.datasets.train, range(len(task.images)), seed, begun_with)
    compiled: dict[str, Any] = {"compiler": torch.compile} if plan.compile else {}
    return Trainer(
        network=network,
        stream=stream,
        optimizer=optimizer,
        scheduler=WarmUp(_lr_schedule(plan, optimizer, plan.total_iter), plan.warmup_iter),
        total=plan.total_iter,
        accumulate=plan.accumulate,
        ema_decay=plan.ema_decay,
        grad_clip_norm=plan.grad_clip_norm,
        precision=precision,
        watch=DivergenceWatch(plan.divergence_factor or None),
        **_of_its_task(options, task, stream, device),
        **compiled,
    )


def _of_its_task(options: AnyTraining, task: Task, stream: ResumableLoader, device: torch.device) -> dict[str, Any]:
    """What a trainer is given beyond that which those of all tasks are."""
    plan = options.train
    if isinstance(options, ClassifierTrainOptions):
        epoch = Fraction(stream.batches_per_pass, plan.accumulate)
        seed = options.manual_seed + DROP_PATH_SEED
        return {
            "loss": with_auxiliary(task.loss, options.train.auxiliary_weight),
            "before_step": DropPathSchedule(task.module, options.train.drop_path, epoch, plan.total_iter, seed, rank()),
        }
    teacher = options.train.distill_opt
    distillation = None if teacher is None else build_distillation(teacher, options.scale, device)
    return {"loss": task.loss, "distillation": distillation}


def build_distillation(section: Distill, scale: int, device: torch.device) -> Distillation:
    """Read a teacher.

    Raises:
        UserError: it cannot be read, or is of another scale.
    """
    where = "train.distill_opt.teacher"
    if section.teacher.endswith((".pth", ".pt")):
        raise UserError(f"{where}: export {section.teacher} to a .safetensors file first, with tools/export.py --model.")
    teacher = load_model(section.teacher)
    if teacher.scale != scale:
        raise UserError(f"{where}: {section.teacher} upscales by {teacher.scale}, and this training by {scale}.")
    return Distillation(teacher.to(device), bound(LOSSES, section))


def _stream(
    dataset: torch.utils.data.Dataset[Any], section: TrainDataset | LabelledSource, indices: Any, seed: int, begun_with: int
) -> ResumableLoader:
    batch = section.batch_size_per_gpu * begun_with
    return ResumableLoader(dataset, list(indices), batch, seed, section.num_worker_per_gpu, rank(), world_size())


def _lr_schedule(weights: WeightSteps, optimizer: torch.optim.Optimizer, total: int) -> Any:
    return bound(LR_SCHEDULES, weights.scheduler)(optimizer, total=total)


def _on(table: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {label: costs.to(device) for label, costs in table.items()}
