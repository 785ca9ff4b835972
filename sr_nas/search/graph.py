"""Steps of a search as CUDA graphs: recorded once and replayed by one call each, in place of thousands of kernel launches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sr_nas.runs.distributed import world_size

WARM_UP = 3
"""Steps that run before one is recorded, as many as PyTorch advises: they choose kernels and make the optimizer's state."""


class Replayed:
    """A function of batches that is recorded once and then replayed on whatever batches it is given.

    A recording reads other tensors where they lay and numbers as they were. So with other ``numbers``, hashable, the function is
    recorded anew, and with batches of other shapes it first runs :data:`WARM_UP` times, as it does at the start.
    """

    def __init__(self, function: Callable[..., Any], numbers: Callable[[], Hashable], recorder: Any) -> None:
        self.function, self.numbers, self.recorder = function, numbers, recorder
        self._inputs: Any = ()
        self._recording: tuple[Hashable, Callable[[], object], Any] | None = None

    def __call__(self, *batches: tuple[Tensor, ...]) -> Any:
        if tree_map(torch.Tensor.size, batches) != tree_map(torch.Tensor.size, self._inputs):
            self._inputs, self._recording, self._runs = tree_map(torch.clone, batches), None, 0
        for static, tensor in zip(tree_leaves(self._inputs), tree_leaves(batches), strict=True):
            static.copy_(tensor)
        self._runs += 1
        if self._runs <= WARM_UP:
            return self.recorder.run(lambda: self.function(*self._inputs))
        if self._recording is None or self._recording[0] != self.numbers():
            self._recording = None  # which frees its memory for the next
            self._recording = self.numbers(), *self.recorder.record(lambda: self.function(*self._inputs))
        _, replay, result = self._recording
        replay()
        return tree_map(torch.clone, result)


class Recorder:
    """Records on a stream of its own, on which steps run before too. Recordings share memory, since no two run at once."""

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, step: Callable[[], Any]) -> Any:
        """Run a step after all that was asked of the device before, and ahead of all that will be."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = step()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def record(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """Return a replay of a step, which is not run, and the result that each replay overwrites."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = step()
        return graph.replay, result


def obstacle(searcher: Any) -> str:
    """Return why the steps of a searcher cannot be recorded; nothing where they can."""
    reasons = {
        f"the device is {searcher.device.type}, not cuda": searcher.device.type != "cuda",
        "several processes share the batches": world_size() > 1,
        "search.relaxation draws in every pass": "draw" in inspect.signature(searcher.relaxation).parameters,
        "search.perturbation draws in every step": searcher.perturbation is not None,
        "an optimizer is not one of PyTorch's": not all(
            type(one).__module__.startswith("torch.optim") for one in (searcher.weight_optimizer, searcher.alpha_optimizer)
        ),
        "search.level is single": searcher.plan.single_level,
        "network_g.checkpointing is on": getattr(searcher.space, "checkpointing", False),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def recorded(searcher: Any) -> tuple[Replayed, Replayed]:
    """Return the alpha step and the weight step of a searcher, recorded. No tensor of it may be replaced from now on."""
    groups = [*searcher.alpha_optimizer.param_groups, *searcher.weight_optimizer.param_groups]
    for group in groups:
        group.update({"capturable": True} if "capturable" in group else {})  # as fused optimizers are, but PyTorch asks for it

    def numbers() -> tuple[float, ...]:
        epoch = searcher.own_epoch
        of_epoch = *searcher.objective.strengths(epoch), *(schedule(epoch) for schedule in searcher.over_epochs.values())
        return *of_epoch, *(group["lr"] for group in groups)  # xi is a rate or constant

    recorder = Recorder(searcher.device)
    return Replayed(searcher.alpha_step, numbers, recorder), Replayed(searcher.weight_step, numbers, recorder)
