"""A task is what networks are for: its options, data, loss, search space, complexity and validation.

Everything else (the searcher, the trainer, the jobs) is the same for all tasks and asks a :class:`Task` for the rest.
To add one, subclass it and enter it in :data:`sr_nas.registry.TASKS`.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_nas.contracts import Network
from sr_nas.errors import UserError, listing, nearest
from sr_nas.options.sections import AnySearch, AnyTraining
from sr_nas.registry import TASKS

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
        """Return set -> scores.

        Raises:
            NonFiniteOutput: the network gives NaN or infinity.
        """

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

    ``options`` is a model of :attr:`search_options` or :attr:`training_options`, ``images`` what :meth:`images` returned.
    """

    search_options: ClassVar[type[AnySearch]]
    training_options: ClassVar[type[AnyTraining]]

    @abstractmethod
    def images(self, options: Any) -> Any:
        """Open the training images, an ordered collection with a length.

        Raises:
            UserError: they cannot be read.
        """

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
        """Return ``params``, multiply-adds by the task's conventions, and ``true_accuracy`` where a benchmark has it."""

    @abstractmethod
    def network_block(self, network: Any) -> dict[str, Any]:
        """Return the part of an option file that trains a searched network."""

    @abstractmethod
    def validator(self, options: Any, network: nn.Module, images: Any, device: torch.device) -> Validator:
        """Open the validation sets of a training.

        Raises:
            UserError: a set cannot be read or does not suit the training images.
        """

    @abstractmethod
    def trainer_arguments(self, options: Any, network: Any, batches_per_epoch: int, device: torch.device) -> dict[str, Any]:
        """Return ``loss`` and further arguments of :class:`sr_nas.trainer.Trainer` that only this task has."""

    def probe(self, options: Any, batch_size: int) -> tuple[Tensor, Tensor, int] | None:
        """Return a tiny batch (input, target) and the input pixels of a real one, or ``None``.

        Memory of a search step is extrapolated from the one to the other; ``None`` says that it would not be right.
        """
        return None

    def batch_metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return the means of metrics over a batch that are worth mapping beside the loss."""
        return {}


@cache
def find_task(name: str) -> Task:
    """Return the task of an option file's ``task``.

    Raises:
        UserError: there is no such task.
    """
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
