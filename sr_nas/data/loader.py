"""Batches for searches and trainings: endless, seeded, resumable, over disjoint parts of a data set."""

from __future__ import annotations

import functools
import itertools
import math
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from sr_nas.errors import UserError


def split_indices(count: int, seed: int, share: float = 0.5) -> tuple[list[int], list[int]]:
    """Split ``0 .. count - 1`` at random into two disjoint, ascending lists, neither of them empty.

    Args:
        count: number of images (at least 2, or a UserError is raised), not of patches: no image is in both parts.
        seed: the same seed gives the same split.
        share: part of the images in the first list, between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, not {share}")
    if count < 2:
        raise UserError(
            f"a search needs at least 2 training images, one part for the weights and one for alpha; the data set has {count}."
        )
    first = min(max(round(count * share), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count).tolist()
    return sorted(order[:first]), sorted(order[first:])


class ResumableLoader:
    """Endless batches from one part of a data set, in an order that depends on the seed alone.

    Each pass over ``indices`` is a fresh permutation, seeded by ``(seed, pass)``; batches run on across the border of two
    passes, so that every batch is full. The state is the number of batches consumed, whatever workers have prefetched.

    Args:
        dataset: maps ``(index, running number of the sample)`` to a tuple of tensors, see
            :class:`sr_nas.data.pairs.PatchDataset`.
        indices: the part of the data set to read; not empty.
        batch_size: samples per batch, of all processes together; may exceed the number of indices.
        seed: of the order.
        num_workers: processes that read ahead; 0 reads in this one. The batches are the same.
        rank: number of this process among those that share the batches.
        world_size: number of these processes. Each gets its slice of every batch: joined in the order of ranks, the
            slices are the batch of a single process, so that a state holds for any number of processes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not indices or batch_size < 1:
            raise ValueError(f"a loader needs indices and a positive batch_size, not {len(indices)} indices and {batch_size}")
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} has no equal share in a batch of {batch_size}")
        self.indices = list(indices)
        self.batch_size = batch_size
        share = batch_size // world_size
        self._slice = range(rank * share, (rank + 1) * share)
        self._dataset = dataset
        self._seed = seed
        self._num_workers = num_workers
        self._position = 0
        self._batches: Iterator[tuple[Tensor, ...]] | None = None

    @property
    def batches_per_pass(self) -> int:
        """Batches that cover every index at least once."""
        return math.ceil(len(self.indices) / self.batch_size)

    def next(self) -> tuple[Tensor, ...]:
        """Return this process's slice of the next batch, ``(lr, hr)`` for patches, stacked along a new first axis.

        A UserError of the data set arrives as it was raised, from whichever process.
        """
        if self._batches is None:
            self._batches = _load(self._dataset, self._addresses(), self._num_workers)
        batch = next(self._batches)
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches consumed."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after that many batches. Seed, indices and batch size must be those of the loader that was saved."""
        self._position = state["position"]
        self._batches = None

    def _addresses(self) -> Iterator[list[tuple[int, int]]]:
        @functools.lru_cache(maxsize=2)  # a batch may lie in two passes
        def permutation(number: int) -> list[int]:
            return np.random.default_rng([self._seed, number]).permutation(self.indices).tolist()

        for batch in itertools.count(self._position):
            draws = [batch * self.batch_size + place for place in self._slice]
            yield [(permutation(draw // len(self.indices))[draw % len(self.indices)], draw) for draw in draws]


def in_order(dataset: Dataset[Any], count: int, batch_size: int, num_workers: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield the first ``count`` items of a data set once, in their order, in batches of which the last may be smaller.

    Arguments are those of :class:`ResumableLoader`; an item's running number is its index.
    """
    addresses = [(index, index) for index in range(count)]
    batches = [addresses[start : start + batch_size] for start in range(0, count, batch_size)]
    return _load(dataset, batches, num_workers)


def _load(dataset: Dataset[Any], addresses: Iterable[list[tuple[int, int]]], num_workers: int) -> Iterator[tuple[Tensor, ...]]:
    loader = DataLoader(
        _UserErrorsAsItems(dataset),
        batch_sampler=addresses,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_the_run,
        # The loader draws a seed for its workers. From torch's global generator that would shift every number that the
        # program draws afterwards, and a resumed run, which starts a loader more, would differ from an uninterrupted one.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield tuple(batch)


def _leave_signals_to_the_run(_: int) -> None:
    """Keep workers alive at Ctrl-C and torchrun's signals, which reach the whole process group: the run ends its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class _UserErrorsAsItems(Dataset[Any]):
    """Returns a :class:`UserError` instead of raising it: raised in a worker, its text would drown in a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, address: tuple[int, int]) -> Any:
        try:
            return self.dataset[address]
        except UserError as error:
            return error


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, UserError):
            return item
    return default_collate(items)
