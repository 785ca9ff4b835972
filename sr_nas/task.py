"""Tasks, and how the checked options of one become a searcher or a trainer.

A task says what networks are for: its options, data, loss, search spaces, complexity and validation. Searcher, trainer and jobs
are the same for all. To add one, subclass :class:`Task` and enter it in :data:`sr_nas.registry.TASKS`.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_nas.complexity.costs import cost_table, cost_tables, fixed_costs
from sr_nas.complexity.latency import read_latency
from sr_nas.contracts import Latency, Network, SearchSpace
from sr_nas.data.loader import ResumableLoader, split_indices
from sr_nas.errors import UserError, listing, nearest
from sr_nas.export.model import load_pretrained, model_file
from sr_nas.genotype import read_genotype
from sr_nas.optim import Together, WarmUp
from sr_nas.options.load import check_options, load_options
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.registry import (
    LR_SCHEDULES,
    OPTIMIZERS,
    PERTURBATIONS,
    REGULARIZERS,
    RELAXATIONS,
    SCHEDULES,
    SELECTIONS,
    STOPS,
    TASKS,
)
from sr_nas.runs.device import Precision
from sr_nas.runs.distributed import rank, world_size
from sr_nas.runs.run_dir import OPTIONS, read_history
from sr_nas.search.alpha import Alpha
from sr_nas.search.budget import Cost
from sr_nas.search.objective import Objective, over
from sr_nas.search.searcher import Plan, Searcher
from sr_nas.trainer import DivergenceWatch, Trainer, check_compiler

# Added to manual_seed. Every random process has its own generator, so that changing one does not change the others.
ALPHA_SEED, TRAINING_SEED, VALIDATION_SEED, RELAXATION_SEED = 1, 2, 3, 4
RESTART_SEED = 10_000

Scores = Mapping[str, Any]
"""Metric -> mean over the images of a set, and whatever else a history keeps of the set."""


class Validator(ABC):
    """Measures the network of a training on its validation sets.

    Attributes:
        sets: name -> images; the score on the first set decides which network is the best.
        metrics: names of the mean scores of a set; the first one decides, and more is better.
        heading: the metrics in words, such as ``"PSNR / SSIM"``.
        unit: text after a value of the first metric.
    """

    metrics: ClassVar[tuple[str, ...]]
    heading: ClassVar[str]
    unit: ClassVar[str]
    sets: Mapping[str, Any]

    @abstractmethod
    def measure(self, network: Any) -> dict[str, Any]:
        """Return set -> scores; raise ``NonFiniteOutput`` where the network gives NaN or infinity."""

    @abstractmethod
    def format(self, scores: Scores) -> str:
        """Return the mean scores of a set as text."""

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Return facts on the training for the network's file, JSON-ready."""

    def notes(self) -> list[str]:
        """Return lines to print when the training begins."""
        return []

    def draw(self, folder: Path) -> list[str]:
        """Draw pictures into the folder of a finished training; return lines that say which."""
        return []

    def means(self, record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return set -> mean scores of a history record, without those of single images."""
        return {name: {key: scores[key] for key in self.metrics} for name, scores in record.get("val", {}).items()}


class Task(ABC):
    """What searches and trainings of one task do not share with those of another.

    ``options`` is a model of :attr:`search_options` or :attr:`training_options`, ``images`` the result of :meth:`images`. What
    the user can mend is raised as :class:`~sr_nas.errors.UserError`: images that cannot be read or do not fit.
    """

    search_options: ClassVar[type[AnySearch]]
    training_options: ClassVar[type[AnyTraining]]
    costs: ClassVar[tuple[str, ...]] = ("params",)
    """Registered costs that tell how large a network of the task is, the most usual first."""
    metrics: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {}
    """Name -> function of a batch, (output, target), to the mean of a metric beside the loss; more is better."""

    @abstractmethod
    def images(self, options: Any) -> Any:
        """Open the training images, ordered, with a length and ``sizes``, name -> bytes, which tell them from others."""

    @abstractmethod
    def samples(self, options: Any, images: Any, seed: int) -> Dataset[Any]:
        """Return the training samples, pairs (input, target), addressed by (image, running number of the sample)."""

    @abstractmethod
    def loss(self, options: Any) -> Callable[[Any, Tensor], Tensor]:
        """Return the task loss: (output, target) -> scalar."""

    @abstractmethod
    def space(self, options: Any, images: Any = None) -> Any:
        """Build the supernet of a search (:class:`sr_nas.contracts.SearchSpace`) on the CPU.

        Without images its last layer may have another size than in the search; its choices are the same.
        """

    @abstractmethod
    def network(self, options: Any, images: Any) -> Any:
        """Build the network of a training, freshly initialised, on the CPU."""

    @abstractmethod
    def complexity_of(self, network: Any) -> dict[str, Any]:
        """Return ``params``, multiply-adds by the task's conventions, and ``truth`` where a benchmark has it: scores by set."""

    @abstractmethod
    def network_block(self, network: Any) -> dict[str, Any]:
        """Return the part of an option file that trains a searched network."""

    @abstractmethod
    def validator(self, options: Any, network: nn.Module, images: Any, device: torch.device) -> Validator:
        """Open the validation sets of a training."""

    @abstractmethod
    def trainer_arguments(self, options: Any, network: Any, batches_per_epoch: int, device: torch.device) -> dict[str, Any]:
        """Return ``loss`` and further arguments of :class:`sr_nas.trainer.Trainer` that only this task has.

        Among them may be a ``network`` to train in place of the given one, which is on the device.
        """

    def probe(self, options: Any, batch_size: int) -> tuple[Tensor, Tensor, int] | None:
        """Return a tiny batch (input, target) and the input pixels of a real one, or ``None``.

        Memory of a search step is extrapolated from the one to the other; ``None`` says that it would not be right.
        """
        return None


@cache
def find_task(name: str) -> Task:
    """Return the task that an option file names under ``task``; raise UserError where there is none."""
    if name not in TASKS:
        raise UserError(f"task: there is no '{name}' here{nearest(str(name), TASKS)} Allowed: {listing(TASKS)}.")
    task: Task = pkgutil.resolve_name(TASKS[name])()
    return task


def search_options(task: str) -> type[AnySearch]:
    """Return the option model of a task's searches, for :func:`sr_nas.options.load.load_options`."""
    return find_task(task).search_options


def training_options(task: str) -> type[AnyTraining]:
    """Return the option model of a task's trainings."""
    return find_task(task).training_options


def complexity_of(network: Network) -> dict[str, Any]:
    """Return what the task of a network counts (:meth:`Task.complexity_of`)."""
    return find_task(network.task).complexity_of(network)


def with_candidates_kept(options: AnySearch) -> AnySearch:
    """Return the options of a search, its supernet with the candidates that ``search.candidates_from`` keeps.

    Raises:
        UserError: the earlier search has not ended or has fewer candidates, its choices are not those of the supernet, or other
            candidates are given too.
    """
    if (source := options.search.candidates_from) is None:
        return options
    folder, where = Path(source.run), "search.candidates_from"
    read_genotype(folder)  # which a search writes when it ends
    earlier = load_options(search_options, folder / OPTIONS, check_files=False)
    with torch.device("meta"):
        choices = find_task(earlier.task).space(earlier).choices()
    if not (history := read_history(folder, choices)):
        raise UserError(f"{where}: {folder} has lost its history.jsonl. Run that search again.")
    beta, names = history[-1]["beta"], {}
    for label, choice in choices.items():
        if choice.of == "operations":
            if source.operations > (count := len(choice.candidates)):
                raise UserError(f"{where}: operations is {source.operations}, and {folder} chose from {count}.")
            order = np.argsort(-np.array(beta[label]), kind="stable")
            names[label] = [choice.candidates[place] for place in sorted(order[: source.operations])]
    content = options.model_dump(mode="json", exclude_none=True)
    if content["network_g"].get("candidates", names) != names:
        raise UserError(f"network_g.candidates: {where} says which there are. Leave one of them out.")
    content["network_g"]["candidates"] = names
    try:
        return check_options(type(options), content, where, check_files=False)
    except UserError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{where}: the candidates of {folder} do not fit this supernet: {reason}") from error


def build_searcher(options: AnySearch, device: torch.device, initial_world_size: int = 1, images: Any = None) -> Searcher:
    """Build everything that a search needs, on ``device``.

    Args:
        options: checked options.
        device: of this process.
        initial_world_size: number of processes that the run was begun with; its batch is ``batch_size_per_gpu`` for each of
            them, however many share it now.
        images: those of the task, where they are open already.

    Raises:
        UserError: images cannot be read or are too few to search with.
    """
    seed, section, task = options.manual_seed, options.search, find_task(options.task)
    own_epochs = section.epochs // section.restarts
    torch.manual_seed(seed)
    images = task.images(options) if images is None else images
    space = task.space(options, images).to(device)
    choices = space.choices()

    def new_alpha(seed: int) -> Alpha:
        generator = torch.Generator().manual_seed(seed + ALPHA_SEED)
        return Alpha(choices, section.alpha.init, section.alpha.value, section.alpha.offset, generator)

    def beginning(number: int) -> tuple[Any, Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own := seed + number * RESTART_SEED)
            return task.space(options, images).state_dict(), new_alpha(own).state_dict()

    def regularizer(term: Any) -> tuple[Any, Any, Any]:
        seen = ("operations", "inputs") if term.on_inputs else ("operations",)
        regularized = {label: choice for label, choice in choices.items() if choice.of in seen}
        strength = over(own_epochs, SCHEDULES.build(term.schedule)) if term.type != "none" else lambda epoch: 0.0
        return REGULARIZERS.build(term), strength, regularized

    everything = range(len(images))
    parts = (everything, everything) if section.level == "single" else split_indices(len(images), seed, section.split)
    training, validation = (
        _stream(options, images, indices, seed + offset, initial_world_size)
        for indices, offset in zip(parts, (TRAINING_SEED, VALIDATION_SEED), strict=True)
    )
    alpha = new_alpha(seed).to(device)
    latency = read_latency(Path(section.latency_table), space, section.foreign_latency) if section.latency_table else None
    objective = Objective(
        task.loss(options),
        *regularizer(section.regularizer),
        costs={
            name: (weight, {label: costs.to(device, torch.float32) for label, costs in cost_table(space, name, latency).items()})
            for name, weight in section.costs().items()
        },
        further=(regularizer(section.further_regularizer),) if section.further_regularizer else (),
    )
    weight_optimizer = OPTIMIZERS.build(options.train.optim_g)(space.parameters())
    alpha_optimizer = OPTIMIZERS.build(section.alpha.optim)(alpha.parameters())
    scheduler: Any = LR_SCHEDULES.build(options.train.scheduler)(weight_optimizer, total=own_epochs)
    if section.alpha.scheduler:
        scheduler = Together(scheduler, LR_SCHEDULES.build(section.alpha.scheduler)(alpha_optimizer, total=own_epochs))
    return Searcher(
        space=space,
        alpha=alpha,
        relaxation=RELAXATIONS.build(section.relaxation),
        objective=objective,
        training=training,
        validation=validation,
        weight_optimizer=weight_optimizer,
        alpha_optimizer=alpha_optimizer,
        scheduler=scheduler,
        plan=Plan(
            epochs=section.epochs,
            steps_per_epoch=section.steps_per_epoch or training.batches_per_epoch,
            warmup_epochs=section.warmup_epochs,
            second_order=section.order == "second",
            finite_difference=section.hessian == "finite_difference",
            xi=section.xi,
            sgd_look_ahead=section.look_ahead == "sgd",
            single_level=section.level == "single",
            alpha_on_both=section.alpha_loss == "train+val",
            grad_clip_norm=options.train.grad_clip_norm,
            precision=options.train.precision,
            seed=seed + RELAXATION_SEED,
            restarts=section.restarts,
            cuda_graph=section.cuda_graph,
        ),
        budgets=network_costs(space, section.budget.limits(), latency),
        selection=SELECTIONS.build(section.selection),
        beginning=beginning,
        metrics=task.metrics,
        stopping=STOPS.build(section.stop) if section.stop else None,
        over_epochs={
            name: over(own_epochs, SCHEDULES.build(schedule)) for name, schedule in section.over_epochs.schedules().items()
        },
        perturbation=PERTURBATIONS.build(section.perturbation) if section.perturbation else None,
    )


def network_costs(space: SearchSpace, limits: Mapping[str, float], latency: Latency | None = None) -> dict[str, Cost]:
    """Return registered costs of the whole networks of a space, each with its limit, ``math.inf`` for none.

    Raises:
        UserError: a cost does not add up over the choices of the space.
    """
    if not limits:
        return {}
    tables = cost_tables(space, limits, latency)
    fixed = fixed_costs(space, tables, latency)
    return {name: Cost(fixed[name], tables[name], limit) for name, limit in limits.items()}


def build_training(options: AnyTraining) -> tuple[Any, Any, list[str]]:
    """Return the images of a training, its network on the CPU, and lines that say where its starting weights come from.

    Raises:
        UserError: images or starting weights cannot be read or do not fit.
    """
    torch.manual_seed(options.manual_seed)
    task = find_task(options.task)
    images = task.images(options)
    network, start = task.network(options, images), options.path.pretrain_network_g
    if start is None:
        return images, network, []
    return images, network, [load_pretrained(network, model_file(start), options.path.param_key_g, options.path.strict_load_g)]


def build_trainer(
    options: AnyTraining, images: Any, network: Network, device: torch.device, precision: Precision, initial_world_size: int = 1
) -> Trainer:
    """Build everything that a training needs, on ``device``, around the images and the network of :func:`build_training`.

    ``initial_world_size`` is as for :func:`build_searcher`.

    Raises:
        UserError: a teacher cannot be read, there is no compiler where one is asked for, or the network has not what an option
            is for: drop-path, 3x3 convolutions.
    """
    section, seed = options.train, options.manual_seed + TRAINING_SEED
    if section.compile:
        check_compiler(device)
    stream = _stream(options, images, range(len(images)), seed, initial_world_size)
    arguments: dict[str, Any] = {"network": network.to(device)}
    arguments |= find_task(options.task).trainer_arguments(options, network, stream.batches_per_epoch, device)
    optimizer = OPTIMIZERS.build(section.optim_g)(arguments["network"].parameters())
    schedule = LR_SCHEDULES.build(section.scheduler)(optimizer, total=section.total_iter)
    return Trainer(
        stream=stream,
        optimizer=optimizer,
        scheduler=WarmUp(schedule, section.warmup_iter),
        total=section.total_iter,
        accumulate=section.accumulate,
        ema_decay=section.ema_decay,
        grad_clip_norm=section.grad_clip_norm,
        precision=precision,
        watch=DivergenceWatch(section.divergence_factor or None),
        compiled=section.compile,
        **arguments,
    )


def _stream(options: Any, images: Any, indices: Sequence[int], seed: int, initial_world_size: int) -> ResumableLoader:
    """Return this process's share of the training batches, drawn from the images of ``indices``."""
    section = options.datasets.train
    samples = find_task(options.task).samples(options, images, seed)
    batch = section.batch_size_per_gpu * initial_world_size
    return ResumableLoader(samples, list(indices), batch, seed, section.num_worker_per_gpu, rank(), world_size())
