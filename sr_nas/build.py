"""From options to objects: the one file that sees spaces and search together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sr_nas.complexity.table import cost_table
from sr_nas.contracts import SRNetwork
from sr_nas.data.classes import LabelledDataset
from sr_nas.data.pairs import Pairs
from sr_nas.data.patches import PatchDataset
from sr_nas.data.streams import Stream, split_indices
from sr_nas.errors import UserError, listing
from sr_nas.export.model import load_model
from sr_nas.export.starting import start_from, starting_tensors
from sr_nas.optim import WarmUp
from sr_nas.options.classification import ClassificationSearchOptions, LabelledSource
from sr_nas.options.search import SearchOptions
from sr_nas.options.sections import Dataset, TrainDataset, WeightSteps
from sr_nas.options.strict import Component
from sr_nas.options.tasks import AnySearch
from sr_nas.options.train import Distill, TrainOptions
from sr_nas.registry import (
    CLASSIFICATION_LOSSES,
    CLASSIFICATION_SPACES,
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
from sr_nas.runs.distributed import rank, world_size
from sr_nas.runs.precision import Precision
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective
from sr_nas.search.searcher import Plan, Searcher
from sr_nas.training.compiled import check_compiler
from sr_nas.training.distillation import Distillation
from sr_nas.training.divergence import DivergenceWatch
from sr_nas.training.trainer import Trainer

# Each random thing has a generator of its own, so that changing one does not change the others.
ALPHA_SEED, TRAINING_SEED, VALIDATION_SEED, RELAXATION_SEED = 1, 2, 3, 4


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
class _Task:
    """What a search does not share with one of another task.

    Attributes:
        space: the supernet.
        loss: task loss.
        images: how many there are.
        dataset: seed -> samples, addressed by (image, running number).
    """

    space: Any
    loss: Callable[..., torch.Tensor]
    images: int
    dataset: Callable[[int], torch.utils.data.Dataset[Any]]


def _super_resolution(options: SearchOptions) -> _Task:
    section = options.datasets.train
    pairs = build_pairs(section, options.scale)
    return _Task(
        bound(SPACES, options.network_g)(scale=options.scale),
        bound(LOSSES, options.train.pixel_opt),
        len(pairs),
        lambda seed: _patches(pairs, section, seed),
    )


def _classification(options: ClassificationSearchOptions) -> _Task:
    section = options.datasets.train
    images = bound(LABELLED, section)(part="train").first(section.limit)
    return _Task(
        bound(CLASSIFICATION_SPACES, options.network_g)(num_classes=len(images.classes)),
        bound(CLASSIFICATION_LOSSES, options.train.class_opt),
        len(images),
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
    built = _classification(options) if isinstance(options, ClassificationSearchOptions) else _super_resolution(options)
    space = built.space.to(device)
    halves = split_indices(built.images, seed, plan.split)
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
        regularized=[
            label for label, choice in space.choices().items() if choice.of == "operations" or plan.regularizer.on_inputs
        ],
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


def build_trained_network(options: TrainOptions) -> tuple[SRNetwork, list[str]]:
    """Build the network of a training with its starting weights, on the CPU, and lines that say where they are from.

    Raises:
        UserError: starting weights that cannot be read or do not fit.
    """
    torch.manual_seed(options.manual_seed)
    network = build_network(options.network_g, options.scale)
    start = options.path.pretrain_network_g
    if start is None:
        return network, []
    tensors, taken = starting_tensors(Path(start), options.path.param_key_g)
    new, total = start_from(network, start, tensors, options.path.strict_load_g)
    fresh = f"; new: {listing(new, 5)}" if new else ""
    return network, [f"starting from {start}{taken}: {total - len(new)} of {total} tensors fit{fresh}"]


def build_trainer(
    options: TrainOptions, network: SRNetwork, device: torch.device, precision: Precision, begun_with: int = 1
) -> Trainer:
    """Build everything a training needs, on ``device``, around its network, which is moved there.

    Args:
        options: checked options.
        network: with its starting weights.
        device: of this process.
        precision: of forward passes.
        begun_with: number of processes that the run was begun with, as for :func:`build_searcher`.

    Raises:
        UserError: data or a teacher that cannot be read, or no compiler where one is asked for.
    """
    plan, seed = options.train, options.manual_seed + TRAINING_SEED
    if plan.compile:
        check_compiler(device)
    pairs = build_pairs(options.datasets.train, options.scale)
    network = network.to(device)
    optimizer = bound(OPTIMIZERS, plan.optim_g)(network.parameters())
    return Trainer(
        network=network,
        loss=bound(LOSSES, plan.pixel_opt),
        stream=_stream(
            _patches(pairs, options.datasets.train, seed), options.datasets.train, range(len(pairs)), seed, begun_with
        ),
        optimizer=optimizer,
        scheduler=WarmUp(_lr_schedule(plan, optimizer, plan.total_iter), plan.warmup_iter),
        total=plan.total_iter,
        **({"compiler": torch.compile} if plan.compile else {}),
        distillation=None if plan.distill_opt is None else build_distillation(plan.distill_opt, options.scale, device),
        accumulate=plan.accumulate,
        ema_decay=plan.ema_decay,
        grad_clip_norm=plan.grad_clip_norm,
        precision=precision,
        watch=DivergenceWatch(plan.divergence_factor or None),
    )


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


def _patches(pairs: Pairs, section: TrainDataset, seed: int) -> PatchDataset:
    return PatchDataset(pairs, section.gt_size, section.use_hflip, section.use_rot, seed)


def _stream(
    dataset: torch.utils.data.Dataset[Any], section: TrainDataset | LabelledSource, indices: Any, seed: int, begun_with: int
) -> Stream:
    batch = section.batch_size_per_gpu * begun_with
    return Stream(dataset, list(indices), batch, seed, section.num_worker_per_gpu, rank(), world_size())


def _lr_schedule(weights: WeightSteps, optimizer: torch.optim.Optimizer, total: int) -> Any:
    return bound(LR_SCHEDULES, weights.scheduler)(optimizer, total=total)


def _on(table: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {label: costs.to(device) for label, costs in table.items()}
