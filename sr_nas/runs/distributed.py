"""An end in words for a process that cannot stop cleanly any more."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sr_nas.errors import UserError


@contextmanager
def ending_after_a_signal(seconds: float, text: str) -> Iterator[None]:
    """Print ``text`` and end the process where the block still runs so long after SIGTERM or SIGINT.

    A call that waits for a GPU which waits for another process lets no signal handler of Python's run, so a thread waits
    for what the interpreter writes to its wake-up file at once.

    Args:
        seconds: less than the 30 that torchrun leaves its processes between SIGTERM and SIGKILL.
        text: for the standard error stream.
    """
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    previous = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        while receiving.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        if not ended.wait(seconds):
            print(text, file=sys.stderr, flush=True)
            os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        sending.send(bytes([signal.SIGTERM]))
        thread.join()
        sending.close()
        receiving.close()


# MERGED sr_nas.runs.distributed: The processes that ``torchrun`` starts for one run: which of them this is, and
# what they tell each other.
#
# Each computes on its slice of every batch; what they average makes them one. Without torchrun there is a
# single process, and
# every function here does nothing and costs nothing.
#
# Gradients and losses travel by NCCL between GPUs and by gloo between CPUs; small things always by gloo.


LOST = "another process of this job has ended (its message, where it left one, is nearby); go on with --auto_resume."
STUCK = (
    "the signal to stop came {seconds} s ago, and this process or another of its job was busy until now. "
    "If one has ended, its message is nearby; go on with --auto_resume."
)
GRACE = 25
# Longer than whatever one process does while the others wait, such as a validation. A process that ends is noticed at once.
PATIENCE = timedelta(hours=1)
CPU = torch.device("cpu")

Answer = TypeVar("Answer")


def launched() -> bool:
    """Whether torchrun has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Number of processes that do this run together."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Number of this process among all of them."""
    return distributed.get_rank() if _joined() else 0


def is_first() -> bool:
    """Whether this process writes, prints and saves for all."""
    return rank() == 0


@contextmanager
def processes(init_method: str = "env://") -> Iterator[None]:
    """Join the other processes of this job; they leave together when the block ends.

    An error meant for people is raised by one process alone of those that have it, so that it is printed once; the others
    exit with code 1. gloo notices at once where a process has ended, NCCL does not: there torchrun's signal to the others,
    and in the end :func:`sr_nas.runs.distributed.ending_after_a_signal`, end the job.

    Args:
        init_method: where they meet, as ``torch.distributed`` has it; torchrun says it in the environment.

    Raises:
        UserError: another process of the job has ended, or they do not meet.
    """
    if not launched():
        yield
        return
    store = _join(init_method)
    try:
        with ending_after_a_signal(GRACE, STUCK.format(seconds=GRACE)):
            yield
            largest(0)
    except (UserError, OSError, RuntimeError) as error:
        told = UserError(LOST) if _tells_of_a_loss(error) else error
        if isinstance(told, UserError | OSError) and not _is_first_to_say(str(told), store):
            raise SystemExit(1) from error
        if told is error:
            raise
        raise told from error
    else:
        distributed.destroy_process_group()
    finally:
        # NCCL could wait here for the ones that are lost; the end of the process takes its group along.
        if _joined() and not torch.cuda.is_available():
            distributed.destroy_process_group()


def replicate(module: nn.Module) -> nn.Module:
    """Return a module to call in place of ``module``, whose backward pass averages the gradients over the processes.

    It shares the parameters and buffers, which the first process gives to all: parameters now, buffers before every forward
    pass. So BatchNorm normalises each process's slice by the slice's own statistics, and keeps the first one's running
    averages. A single process gets ``module`` itself.
    """
    if world_size() == 1:
        return module
    return DistributedDataParallel(module)


def averaging(replica: nn.Module, now: bool) -> AbstractContextManager[Any]:
    """Return a context for a forward and a backward pass of what :func:`replicate` returned.

    Unless ``now``, gradients stay with their process, to be averaged with those of a later pass.
    """
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) and not now else nullcontext()


def share(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)


def mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means over the processes of equally shaped tensors; in one message, and differentiable any number of times.

    The derivative is that of the mean over the processes of what each of them makes of the result.
    """
    if world_size() == 1:
        return list(tensors)
    flat = _Mean.apply(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


def largest(number: int) -> int:
    """Return the largest of the processes' numbers; none goes on before all have come here."""
    if world_size() == 1:
        return number
    found = torch.tensor(number)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def from_first(make: Callable[[], Answer]) -> Answer:
    """Let the first process make something, and give it to all.

    Raises:
        UserError: as the first process raised it; so with OSError.
    """
    if world_size() == 1:
        return make()
    answer: list[Any] = [None, None]
    if is_first():
        try:
            answer[0] = make()
        except (UserError, OSError) as error:
            answer[1] = error
    distributed.broadcast_object_list(answer, 0, device=CPU)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


class _Mean(torch.autograd.Function):
    """The mean is its own adjoint: a process's share in the mean of all results is the mean of the gradients there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Mean.apply(gradient)


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _join(init_method: str) -> Any:
    try:
        meeting = rendezvous(init_method, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        store, own_rank, size = next(meeting)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        raise UserError(f"the processes of this job do not find each other: {str(error).splitlines()[0]}") from error
    return store


def _tells_of_a_loss(error: Exception) -> bool:
    """Whether a message between processes has failed; gloo's errors have no type of their own."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _is_first_to_say(text: str, store: Any) -> bool:
    try:
        return store.add("said " + hashlib.sha256(text.encode()).hexdigest(), 1) == 1
    except RuntimeError:
        return True  # the place where the processes met is lost too
