"""From options to a searcher or a trainer: the one file that sees tasks, spaces and the search together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sr_nas.complexity.costs import cost_table
from sr_nas.contracts import Network
from sr_nas.data.loader import ResumableLoader, split_indices
from sr_nas.export.model import load_pretrained
from sr_nas.optim import WarmUp
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.registry import LR_SCHEDULES, OPTIMIZERS, REGULARIZERS, RELAXATIONS, SCHEDULES
from sr_nas.runs.device import Precision
from sr_nas.runs.distributed import rank, world_size
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import Objective
from sr_nas.search.searcher import Plan, Searcher
from sr_nas.task import find_task
from sr_nas.trainer import DivergenceWatch, Trainer, check_compiler

# Added to manual_seed. Every random process has its own generator, so that changing one does not change the others.
ALPHA_SEED, TRAINING_SEED, VALIDATION_SEED, RELAXATION_SEED = 1, 2, 3, 4


def build_searcher(options: AnySearch, device: torch.device, initial_world_size: int = 1) -> Searcher:
    """Build everything that a search needs, on ``device``.

    Args:
        options: checked options.
        device: of this process.
        initial_world_size: number of processes that the run was begun with; its batch is ``batch_size_per_gpu`` for each of
            them, however many share it now.

    Raises:
        UserError: images that cannot be read or are too few to search with.
    """
    seed, plan, task = options.manual_seed, options.search, find_task(options.task)
    torch.manual_seed(seed)
    images = task.images(options)
    space = task.space(options, images).to(device)
    training, validation = (
        build_stream(options, images, indices, seed + offset, initial_world_size)
        for indices, offset in zip(split_indices(len(images), seed, plan.split), (TRAINING_SEED, VALIDATION_SEED), strict=True)
    )
    choices = space.choices()
    generator = torch.Generator().manual_seed(seed + ALPHA_SEED)
    alpha = Alpha(choices, plan.alpha.init, plan.alpha.value, plan.alpha.offset, generator).to(device)
    costs = {
        name: (weight, {label: costs.to(device) for label, costs in cost_table(space, name).items()})
        for name, weight in plan.costs().items()
    }
    objective = Objective(
        task=task.loss(options),
        regularizer=REGULARIZERS.build(plan.regularizer),
        strength=SCHEDULES.build(plan.regularizer.schedule),
        regularized={
            label: choice for label, choice in choices.items() if choice.of == "operations" or plan.regularizer.on_inputs
        },
        costs=costs,
    )
    weight_optimizer = OPTIMIZERS.build(options.train.optim_g)(space.parameters())
    return Searcher(
        space=space,
        alpha=alpha,
        relaxation=RELAXATIONS.build(plan.relaxation),
        objective=objective,
        training=training,
        validation=validation,
        weight_optimizer=weight_optimizer,
        alpha_optimizer=OPTIMIZERS.build(plan.alpha.optim)(alpha.parameters()),
        scheduler=LR_SCHEDULES.build(options.train.scheduler)(weight_optimizer, total=plan.epochs),
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


def build_training(options: AnyTraining) -> tuple[Any, Any, list[str]]:
    """Open the images of a training and build its network with its starting weights.

    Returns:
        The images, the network on the CPU, and lines that say where its weights come from.

    Raises:
        UserError: images or starting weights that cannot be read or do not fit.
    """
    torch.manual_seed(options.manual_seed)
    task = find_task(options.task)
    images = task.images(options)
    network = task.network(options, images)
    start = options.path.pretrain_network_g
    if start is None:
        return images, network, []
    return images, network, [load_pretrained(network, Path(start), options.path.param_key_g, options.path.strict_load_g)]


def build_trainer(
    options: AnyTraining, images: Any, network: Network, device: torch.device, precision: Precision, initial_world_size: int = 1
) -> Trainer:
    """Build everything that a training needs, on ``device``, around its network, which is moved there.

    Args:
        options: checked options.
        images: what it learns from (:func:`build_training`).
        network: with its starting weights.
        device: of this process.
        precision: of forward passes.
        initial_world_size: as for :func:`build_searcher`.

    Raises:
        UserError: a teacher that cannot be read, no compiler where one is asked for, or drop-path for a network without it.
    """
    plan, seed = options.train, options.manual_seed + TRAINING_SEED
    if plan.compile:
        check_compiler(device)
    network = network.to(device)
    optimizer = OPTIMIZERS.build(plan.optim_g)(network.parameters())
    stream = build_stream(options, images, range(len(images)), seed, initial_world_size)
    return Trainer(
        network=network,
        stream=stream,
        optimizer=optimizer,
        scheduler=WarmUp(LR_SCHEDULES.build(plan.scheduler)(optimizer, total=plan.total_iter), plan.warmup_iter),
        total=plan.total_iter,
        accumulate=plan.accumulate,
        ema_decay=plan.ema_decay,
        grad_clip_norm=plan.grad_clip_norm,
        precision=precision,
        watch=DivergenceWatch(plan.divergence_factor or None),
        compiled=plan.compile,
        **find_task(options.task).trainer_arguments(options, network, stream.batches_per_pass, device),
    )


def build_stream(options: Any, images: Any, indices: Sequence[int], seed: int, initial_world_size: int) -> ResumableLoader:
    """Return this process's share of the training batches, drawn from the images of ``indices``."""
    section = options.datasets.train
    samples = find_task(options.task).samples(options, images, seed)
    batch = section.batch_size_per_gpu * initial_world_size
    return ResumableLoader(samples, list(indices), batch, seed, section.num_worker_per_gpu, rank(), world_size())
