"""The processes of one run (``torchrun``): rank, collectives, and a clean stop on SIGINT and SIGTERM.

Each process computes on its slice of every batch. Without torchrun there is a single process, and the collectives return their
argument. Gradients and losses go by NCCL between GPUs and by gloo between CPUs, small objects always by gloo.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sr_nas.errors import UserError

LOST = "another process of this job has ended (its message, where it left one, is nearby); go on with --auto_resume."
# Longer than anything that one process does while the others wait, such as a validation.
TIMEOUT = timedelta(hours=1)
CPU = torch.device("cpu")

T = TypeVar("T")


def launched() -> bool:
    """Return whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes of this run."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Return the number of this process among all of them."""
    return distributed.get_rank() if _joined() else 0


def is_first() -> bool:
    """Return whether this is the process that writes, prints and validates for all."""
    return rank() == 0


@contextmanager
def processes(init_method: str = "env://") -> Iterator[None]:
    """Join the other processes of this run, and leave together with them when the block ends.

    An error that several processes raise alike, such as a missing file, is raised by one of them only; the others exit with
    code 1. gloo notices at once where a process has ended; with NCCL torchrun ends the others.

    Raises:
        UserError: the processes do not find each other, or another one has ended.
    """
    if not launched():
        yield
        return
    try:
        store, number, size = next(rendezvous(init_method, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=number, world_size=size, timeout=TIMEOUT)
    except RuntimeError as error:
        raise UserError(f"the processes of this job do not find each other: {str(error).splitlines()[0]}") from error
    try:
        yield
        largest(0)  # a barrier
    except (UserError, OSError, RuntimeError) as error:
        # gloo's errors have no type of their own.
        lost = isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        message = LOST if lost else str(error)
        if (lost or isinstance(error, UserError | OSError)) and not _is_first_report(message, store):
            raise SystemExit(1) from error
        if lost:
            raise UserError(LOST) from error
        raise
    else:
        distributed.destroy_process_group()
    finally:
        # After an error NCCL could wait here for lost processes; its group ends with this process.
        if _joined() and not torch.cuda.is_available():
            distributed.destroy_process_group()


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _is_first_report(text: str, store: Any) -> bool:
    try:
        return store.add("reported " + hashlib.sha256(text.encode()).hexdigest(), 1) == 1
    except RuntimeError:
        return True  # the store was in the process that is lost


def replicate(module: nn.Module, partial: bool = False) -> nn.Module:
    """Return a module to call in place of ``module``, whose backward pass averages the gradients over the processes.

    It shares parameters and buffers, which are those of the first process: parameters from now on, buffers from the start of
    every forward pass (BatchNorm normalises each slice by its own statistics). A single process gets ``module`` itself. With
    ``partial``, a pass may leave parameters out.
    """
    return DistributedDataParallel(module, find_unused_parameters=partial) if world_size() > 1 else module


def gradient_sync(replica: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Return a context for a forward and backward pass of a replica; unless ``now``, gradients are averaged in a later pass."""
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) and not now else nullcontext()


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)


def mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of tensors over the processes, differentiable any number of times, as the mean of the losses is."""
    if world_size() == 1:
        return list(tensors)
    flat = _Mean.apply(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


class _Mean(torch.autograd.Function):
    """All-reduced mean. It is its own adjoint: the gradient of a process is the mean of the gradients of all results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Mean.apply(gradient)


def largest(number: int) -> int:
    """Return the largest of the processes' numbers, once all processes have called this."""
    if world_size() == 1:
        return number
    result = torch.tensor(number)
    distributed.all_reduce(result, distributed.ReduceOp.MAX)
    return int(result)


def from_first(make: Callable[[], T]) -> T:
    """Call ``make`` in the first process and return its result in all, or raise its UserError or OSError in all."""
    if world_size() == 1:
        return make()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = make()
        except (UserError, OSError) as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome, 0, device=CPU)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


class GracefulShutdown:
    """Context manager that notes SIGINT, SIGTERM and SIGHUP, so that a run finishes its step and saves; call it to ask for one.

    A second signal ends the process at once: SIGINT by a KeyboardInterrupt, after which a third one kills. SIGINT and SIGTERM are
    heeded also where the process was started with them ignored, as a shell starts a background job: whoever sends one means it.
    SIGHUP, of a terminal that is closed, is then left ignored (``nohup``); else the process writes no more to that terminal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._received = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> GracefulShutdown:
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous.setdefault(number, signal.signal(number, self._note))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __call__(self) -> bool:
        """Return whether this process has received a signal."""
        return self.signal is not None

    def agreed(self) -> bool:
        """Return whether any process of the run has received a signal; all must ask after the same step."""
        self.signal = largest(self.signal or 0) or None
        return self()

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells, or 0."""
        return 128 + self.signal if self.signal else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            os.kill(os.getpid(), number)
        self._received, self.signal = True, number
        if number not in (signal.SIGINT, signal.SIGTERM):
            with open(os.devnull, "w") as nowhere, suppress(OSError):  # writing to a closed terminal is an error
                for output in (1, 2):
                    if stat.S_ISCHR(os.fstat(output).st_mode):
                        os.dup2(nowhere.fileno(), output)
