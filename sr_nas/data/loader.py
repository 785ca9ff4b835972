"""Random aligned patches of image pairs, and batches: endless, seeded, resumable, over disjoint parts of a data set."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from sr_nas.data.sources import Image, Pairs, pixels
from sr_nas.errors import UserError
from sr_nas.images.files import to_tensor


class PatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """Random training patches, addressed by ``(index, draw)``: which pair, and the running number of the sample.

    Crop and flips come from a generator seeded by ``(seed, draw)`` alone, so that a sample depends neither on the number of
    workers nor on what was read before.

    Args:
        pairs: the images.
        gt_size: height and width of the HR patch in pixels, a multiple of the scale.
        use_hflip: mirror left to right, half of the time.
        use_rot: mirror top to bottom and transpose, each half of the time; with ``use_hflip`` all eight orientations
            of the square are equally likely (BasicSR's option of that name).
        seed: of crops and flips.
        hardest_of: random crops that a patch is chosen from: the one that bicubic interpolation of LR, before any degradation,
            misses most in squared error. Flat patches teach little (after SamplingAug, Wang et al., BMVC 2021, which ranks all
            patches of an image).
        memory_budget: bytes of decoded pairs to keep, first come, first served, shared by the workers of a loader.
    """

    def __init__(
        self,
        pairs: Pairs,
        gt_size: int,
        use_hflip: bool = True,
        use_rot: bool = True,
        seed: int = 0,
        hardest_of: int = 1,
        memory_budget: int = 2**30,
    ) -> None:
        if gt_size < 1 or gt_size % pairs.scale:
            raise ValueError(f"gt_size {gt_size} must be a positive multiple of the scale {pairs.scale}")
        if hardest_of < 1:
            raise ValueError(f"a patch is the hardest of 1 crop or more, not of {hardest_of}")
        self.pairs = pairs
        self.gt_size = gt_size
        self.use_hflip = use_hflip
        self.use_rot = use_rot
        self.seed = seed
        self.hardest_of = hardest_of
        self.memory_budget = memory_budget
        self._memory: dict[int, tuple[Image, Image]] = {}
        self._memory_bytes = 0

    def __len__(self) -> int:
        """Number of pairs; each has any number of draws."""
        return len(self.pairs)

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return ``(lr, hr)``, float32 in 0..1, [3, gt_size / scale, gt_size / scale] and [3, gt_size, gt_size].

        Raises:
            UserError: the pair cannot be read, does not fit together, or is smaller than ``gt_size``.
        """
        index, draw = address
        lr, hr = self._pair(index)
        scale, lr_size = self.pairs.scale, self.gt_size // self.pairs.scale
        random = np.random.default_rng([self.seed, draw])
        corners = [tuple(int(random.integers(side - lr_size + 1)) for side in lr.shape[:2]) for _ in range(self.hardest_of)]
        top, left = corners[0] if self.hardest_of == 1 else max(corners, key=lambda corner: self._bicubic_error(lr, hr, *corner))
        # Drawn whether used or not: switching one of them leaves the crops as they were.
        hflip, vflip, transpose = random.random(3) < 0.5
        orientation = (bool(hflip) and self.use_hflip, bool(vflip) and self.use_rot, bool(transpose) and self.use_rot)
        low = self.low_patch(lr, hr, top, left, orientation, random)
        hr = hr[top * scale : top * scale + self.gt_size, left * scale : left * scale + self.gt_size]
        return to_tensor(low)[0], to_tensor(orient(hr, *orientation))[0]

    def _bicubic_error(self, lr: Image, hr: Image, top: int, left: int) -> float:
        size, scale = self.gt_size // self.pairs.scale, self.pairs.scale
        # OpenCV's (a = -0.75), for speed: nothing but the order of crops depends on it.
        low = lr[top : top + size, left : left + size]
        bicubic = cv2.resize(low, (self.gt_size, self.gt_size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        target = hr[top * scale : top * scale + self.gt_size, left * scale : left * scale + self.gt_size]
        return float(np.square(bicubic - target).sum())

    def low_patch(
        self, lr: Image, hr: Image, top: int, left: int, orientation: tuple[bool, bool, bool], random: np.random.Generator
    ) -> Image:
        """Return the LR patch whose corner is at (top, left) of ``lr``, in the orientation; ``random`` is for what changes it."""
        size = self.gt_size // self.pairs.scale
        return orient(lr[top : top + size, left : left + size], *orientation)

    def _pair(self, index: int) -> tuple[Image, Image]:
        if index in self._memory:
            return self._memory[index]
        hr = self.pairs.hr(index)
        if min(hr.shape[:2]) < self.gt_size:
            raise UserError(
                f"{self.pairs.labels(index)[0]} has {pixels(hr.shape)}, too few for patches of gt_size {self.gt_size}. "
                f"Lower gt_size to {min(hr.shape[:2])} or less, or take the image out."
            )
        pair = (self.pairs.lr(index), hr)
        worker = get_worker_info()
        size, budget = sum(image.nbytes for image in pair), self.memory_budget // (worker.num_workers if worker else 1)
        if not self.pairs.mapped and self._memory_bytes + size <= budget:
            self._memory[index] = pair
            self._memory_bytes += size
        return pair


def orient(image: Image, hflip: bool, vflip: bool, transpose: bool) -> Image:
    """Mirror an image [H, W, C] left to right, then top to bottom, then swap its height and width, each if asked to."""
    if hflip:
        image = image[:, ::-1]
    if vflip:
        image = image[::-1]
    return image.swapaxes(0, 1) if transpose else image


def split_indices(count: int, seed: int, share: float = 0.5) -> tuple[list[int], list[int]]:
    """Split the images ``0 .. count - 1`` at random into two disjoint, ascending lists, neither of them empty.

    ``share`` of them, between 0 and 1, are in the first. A UserError if there are fewer than 2.
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
        dataset: maps ``(index, running number of the sample)`` to a tuple of tensors, see :class:`PatchDataset`.
        indices: the part of the data set to read; not empty.
        batch_size: samples per batch, of all processes together; may exceed the number of indices.
        seed: of the order.
        num_workers: processes that read ahead; 0 reads in this one. The batches are the same.
        rank: number of this process among those that share the batches.
        world_size: number of these processes. Each gets its slice of every batch: in the order of ranks, the slices make
            the batch of a single process, so that a state holds for any number of them.
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
    def batches_per_epoch(self) -> int:
        """Batches that cover every index at least once."""
        return math.ceil(len(self.indices) / self.batch_size)

    def next(self) -> tuple[Tensor, ...]:
        """Return this process's slice of the next batch, ``(lr, hr)`` for patches, stacked along a new first axis.

        A UserError of the data set arrives as it was raised, from whichever process.
        """
        if self._batches is None:
            # A generator that held this loader would be a cycle. Workers that only the garbage collector ends take 5 s each,
            # since it closes their queues before PyTorch can send the end through them.
            addresses = _addresses(self.indices, self._seed, self.batch_size, self._slice, self._position)
            self._batches = _load(self._dataset, addresses, self._num_workers)
        batch = next(self._batches)
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after that many batches. Seed, indices and batch size must be those of the loader that was saved."""
        self._position = state["position"]
        self._batches = None


def _addresses(indices: Sequence[int], seed: int, batch_size: int, places: range, first: int) -> Iterator[list[tuple[int, int]]]:
    """Yield this process's addresses of every batch from number ``first`` on: (index, running number of the sample)."""

    @functools.lru_cache(maxsize=2)  # a batch may lie in two passes
    def permutation(number: int) -> list[int]:
        return np.random.default_rng([seed, number]).permutation(indices).tolist()

    for batch in itertools.count(first):
        draws = [batch * batch_size + place for place in places]
        yield [(permutation(draw // len(indices))[draw % len(indices)], draw) for draw in draws]


def in_order(dataset: Dataset[Any], count: int, batch_size: int, num_workers: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield the first ``count`` items of a data set once, in order, the last batch perhaps smaller; numbered by their index."""
    addresses = [(index, index) for index in range(count)]
    batches = [addresses[start : start + batch_size] for start in range(0, count, batch_size)]
    return _load(dataset, batches, num_workers)


def _load(dataset: Dataset[Any], addresses: Iterable[list[tuple[int, int]]], num_workers: int) -> Iterator[tuple[Tensor, ...]]:
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=addresses,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_the_run,
        # The loader draws a seed for its workers. From torch's global generator that would shift every number that the
        # program draws afterwards, and a resumed run, which starts a loader more, would differ from an uninterrupted one.
        generator=torch.Generator(),
    )
    batches, batch = None, None
    while True:
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches, None)
        except (OSError, EOFError) as error:  # those of the data set arrive as items: this is a worker that has ended
            raise LoaderFailure(f"DataLoader worker (pid unknown): {error}") from error
        if batch is None:
            return
        if isinstance(batch, UserError | OSError):
            raise batch
        yield tuple(batch)


def _leave_signals_to_the_run(_: int) -> None:
    """Keep workers alive at Ctrl-C and torchrun's signals, which reach the whole process group: the run ends its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class LoaderFailure(RuntimeError):
    """A loader's process has ended or cannot be started; in PyTorch's own errors a RuntimeError of a certain text."""


def loader_failure(error: BaseException) -> str:
    """Return in a few words how a loader's process has failed; nothing for another error.

    PyTorch raises its error where a process was killed, whatever this one is doing at that moment. After a failure it does so
    no more: other processes that end would disturb the end of this one.
    """
    found = re.search(r"DataLoader worker \(pid.*|.*(shared memory|</torch_|ancillary data).*", str(error))
    if not found or not isinstance(error, RuntimeError):
        return ""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return found[0].split(". ")[0].strip(" .").replace(" (pid unknown)", "")


class _ErrorsAsItems(Dataset[Any]):
    """Returns a :class:`UserError` or OSError instead of raising it: raised in a worker, its text would drown in a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, address: tuple[int, int]) -> Any:
        try:
            return self.dataset[address]
        except (UserError, OSError) as error:
            return error


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, UserError | OSError):
            return item
    return default_collate(items)
