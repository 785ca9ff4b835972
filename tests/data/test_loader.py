"""Loaders: disjoint, seeded, and resumed without a difference."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import signal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sr_nas.data.loader import LoaderFailure, PatchDataset, ResumableLoader, in_order, loader_failure, split_indices
from sr_nas.data.sources import Pairs
from sr_nas.errors import UserError


class Addresses(Dataset[tuple[Tensor, Tensor]]):
    """Items that say by which address they were asked for."""

    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return torch.tensor(address[0]), torch.tensor(address[1])


class Unreadable(Addresses):
    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        raise UserError("a.png is damaged.")


class Full(Addresses):
    def __getitem__(self, address: tuple[int, int]) -> tuple[Tensor, Tensor]:
        raise OSError(errno.EIO, "Input/output error", "a.png")


def noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (20, 24, 3), np.uint8)


def patch_loader(num_workers: int = 0, seed: int = 3) -> ResumableLoader:
    pairs = Pairs(list("abcde"), 2, noise)
    return ResumableLoader(PatchDataset(pairs, 8, seed=seed), [0, 1, 3, 4], 3, seed, num_workers)


def take(loader: ResumableLoader, count: int) -> list[tuple[Tensor, ...]]:
    return [loader.next() for _ in range(count)]


def assert_equal(one: list[tuple[Tensor, ...]], other: list[tuple[Tensor, ...]]) -> None:
    for left, right in zip(one, other, strict=True):
        assert len(left) == len(right) == 2
        assert torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])


@pytest.mark.parametrize(
    ("count", "share", "first"), [(10, 0.5, 5), (91, 0.5, 46), (10, 0.8, 8), (2, 0.01, 1), (2, 0.99, 1), (5, 0.5, 2)]
)
def test_the_parts_are_disjoint_and_cover_all(count: int, share: float, first: int) -> None:
    weights, alpha = split_indices(count, seed=0, share=share)
    assert sorted(weights + alpha) == list(range(count))
    assert len(weights) == first


def test_the_split_is_seeded() -> None:
    assert split_indices(50, seed=1) == split_indices(50, seed=1)
    assert split_indices(50, seed=1) != split_indices(50, seed=2)


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"at least 2 training images.*has 1"):
        split_indices(1, seed=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_indices(4, seed=0, share=1.0)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_each_pass_is_a_fresh_permutation_and_nothing_is_dropped(batch_size: int) -> None:
    indices = [2, 3, 5, 7, 11, 13, 17]
    loader = ResumableLoader(Addresses(), indices, batch_size, seed=0)
    assert loader.batches_per_epoch == -(-7 // batch_size)
    batches = take(loader, 42 // batch_size + 1)
    assert all(len(images) == batch_size for images, _ in batches)
    images, draws = (torch.cat(column).tolist() for column in zip(*batches, strict=True))
    assert draws == list(range(len(draws)))
    passes = [tuple(images[start : start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(order) == indices for order in passes)
    assert len(set(passes)) == 6


def test_the_order_depends_on_the_seed() -> None:
    orders = [
        torch.cat([batch[0] for batch in take(ResumableLoader(Addresses(), range(20), 5, seed), 4)]).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_gives_the_batches_of_an_uninterrupted_one(num_workers: int) -> None:
    straight = take(patch_loader(), 11)
    interrupted = patch_loader(num_workers)
    assert_equal(take(interrupted, 5), straight[:5])
    state = interrupted.state_dict()
    assert state == {"position": 5}
    resumed = patch_loader(num_workers)
    resumed.load_state_dict(state)
    assert_equal(take(resumed, 6), straight[5:])
    assert resumed.state_dict() == {"position": 11}
    interrupted.load_state_dict({"position": 1})
    assert_equal(take(interrupted, 2), straight[1:3])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_slices_of_all_processes_are_the_batches_of_one(world_size: int) -> None:
    whole, *shares = (
        ResumableLoader(Addresses(), [2, 3, 5, 7], 6, 3, 0, rank, size) for size in (1, world_size) for rank in range(size)
    )
    for share in (whole, *shares):
        share.load_state_dict({"position": 4})
    for batch in take(whole, 5):
        slices = [share.next() for share in shares]
        assert_equal([tuple(torch.cat(parts) for parts in zip(*slices, strict=True))], [batch])
    assert all(share.state_dict() == whole.state_dict() for share in shares)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="no equal share"):
        ResumableLoader(Addresses(), [0], 3, 0, 0, 0, 2)


def test_reading_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(patch_loader(), 2)
    assert torch.equal(torch.rand(3), expected)


def test_patches_of_later_passes_are_cropped_anew() -> None:
    loader = ResumableLoader(PatchDataset(Pairs(["a"], 2, noise), 8), [0], 1, seed=0)
    assert len({tuple(hr.flatten().tolist()) for _, hr in take(loader, 8)}) > 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_for_users_arrive_as_they_were_raised(num_workers: int) -> None:
    with pytest.raises(UserError, match=r"^a\.png is damaged\.$"):
        ResumableLoader(Unreadable(), [0], 1, 0, num_workers).next()
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error: 'a\.png'$"):
        ResumableLoader(Full(), [0], 1, 0, num_workers).next()


@pytest.mark.long
def test_processes_that_cannot_be_started_are_a_failure_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(LoaderFailure) as caught:
        patch_loader(1).next()
    previous = signal.getsignal(signal.SIGCHLD)
    assert loader_failure(caught.value) == "DataLoader worker: [Errno 11] Resource temporarily unavailable"
    signal.signal(signal.SIGCHLD, previous)
    assert not loader_failure(RuntimeError("shapes differ")) and not loader_failure(UserError("DataLoader worker (pid 1)"))


@pytest.mark.parametrize(("indices", "batch_size"), [([], 1), ([0], 0)])
def test_an_empty_loader_is_refused(indices: list[int], batch_size: int) -> None:
    with pytest.raises(ValueError, match="needs indices"):
        ResumableLoader(Addresses(), indices, batch_size, 0)


def test_in_order_every_item_comes_once_whoever_reads() -> None:
    dataset = PatchDataset(Pairs(list("abcdefg"), 2, noise), 8)
    alone, read_ahead = (list(in_order(dataset, 7, 3, workers)) for workers in (0, 2))
    assert [len(batch[0]) for batch in alone] == [3, 3, 1]
    assert_equal(alone, read_ahead)
    assert torch.equal(torch.cat([batch[0] for batch in alone]), torch.stack([dataset[(index, index)][0] for index in range(7)]))
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        list(in_order(Unreadable(), 2, 1))


def test_workers_end_with_their_loader_and_need_no_garbage_collector() -> None:
    """By the garbage collector, PyTorch would wait 5 s for each."""
    gc.disable()
    try:
        loader = ResumableLoader(Addresses(), range(8), 2, seed=0, num_workers=2)
        loader.next()
        workers = multiprocessing.active_children()
        assert len(workers) >= 2
        del loader
        assert not set(workers) & set(multiprocessing.active_children())
    finally:
        gc.enable()
