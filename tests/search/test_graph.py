"""Recorded steps: on the CPU with a stand-in for CUDA graphs that does what they do, and on a GPU with the real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sr_nas.errors import UserError
from sr_nas.search import graph
from sr_nas.search.alpha import to_device
from sr_nas.search.graph import WARM_UP, Replayed, obstacle
from sr_nas.search.objective import sa
from sr_nas.search.searcher import Searcher
from tests.search.test_no_wait import DLSR, IMDN, SECOND, search_of
from tests.search.test_searcher import flat, restarting, searcher

CUDA = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


SHORT = ["search:steps_per_epoch=4", "search:epochs=2", "search:restarts=1"]
SEARCHES = {
    "clipped": ["sac_imdn", *IMDN, "train:grad_clip_norm=1", "train:scheduler={type: CosineAnnealingLR}"],
    "two budgets": ["budget_imdn", *IMDN, "search:budget={macs_hr: 3G, params: 9000}"],
    "second order, bf16": ["sac_imdn", *IMDN, SECOND, "train:precision=bf16"],
    "finite differences": ["sac_imdn", *IMDN, SECOND, "search:hessian=finite_difference"],
    "SGD": ["sac_imdn", *IMDN, "train:optim_g={type: SGD, lr: 1e-3, momentum: 0.9}"],
    "one at a time": ["sa_imdn", *IMDN, "network_g:execution=plain"],
    "dlsr": ["dlsr", *DLSR],
}


class Kernels(TorchDispatchMode):
    """Notes every kernel with its arguments, to launch it again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Callable[[], None]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        assert "_local_scalar_dense" not in func.__name__, "a value is read"
        places = [tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))]

        def launch() -> None:
            for old, new in zip(tensors(result), tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage()._cdata not in places and not old._is_zerotensor():  # else a view, or written in place
                    old.copy_(new)

        self.launches.append(launch)
        return result


class StandIn:
    """Records on the CPU. Kernels run while they are recorded, unlike those of CUDA, so that the first replay does nothing."""

    def __init__(self, *_: Any) -> None:
        self.runs = self.records = 0

    def run(self, step: Callable[[], Any]) -> Any:
        self.runs += 1
        return step()

    def record(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        self.records += 1
        with (kernels := Kernels()):
            result = step()
        replays = iter([[]])  # type: ignore[var-annotated]

        @torch.no_grad()
        def replay() -> None:
            for launch in next(replays, kernels.launches):
                launch()

        return replay, result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "Recorder", StandIn)
    monkeypatch.setattr("sr_nas.search.searcher.obstacle", lambda _: "")


def recording(search: Searcher) -> Searcher:
    return dataclasses.replace(search, plan=dataclasses.replace(search.plan, cuda_graph="auto"))


def test_a_function_is_recorded_once_for_each_shape_and_its_numbers() -> None:
    recorder, state, numbers = StandIn(), torch.zeros(()), [2.0]

    def function(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        state.add_(batch[0].sum())
        return {"state": state * numbers[0], "other": batch[1].sum()}

    replayed, total, results = Replayed(function, lambda: tuple(numbers), recorder), 0.0, []
    for call, size in enumerate([2] * 7 + [3] * 5):
        x, y = torch.full((size,), float(call)), torch.full((size,), -float(call))
        numbers[0] = 2.0 if call < 5 else 3.0
        total += size * call
        results.append((replayed((x, y)), {"state": total * numbers[0], "other": -size * call}))
    # Results are no memory that a later replay overwrites.
    assert [{name: float(value) for name, value in result.items()} for result, _ in results] == [right for _, right in results]
    assert (recorder.runs, recorder.records) == (2 * WARM_UP, 3)  # 2 of the first shape, of whose numbers one has changed


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "clipped")) for name in SEARCHES])
def test_a_recorded_search_is_the_same_to_the_bit(name: str, stand_in: None) -> None:
    check(lambda *words: search_of(*SEARCHES[name], *SHORT, *words, device=torch.device("cpu")))


@pytest.mark.parametrize("optimizer", ["train:optim_g", "search:alpha:optim"])
def test_an_optimizer_that_is_none_of_pytorchs_is_not_recorded(optimizer: str) -> None:
    def why(*words: str) -> str:
        search = search_of("sac_imdn", *IMDN, *words, device=torch.device("cpu"))
        return obstacle(SimpleNamespace(**vars(search) | {"device": CUDA}))

    assert not why()
    assert why(f"{optimizer}={{type: SOAP}}") == "an optimizer is not one of PyTorch's"


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", SEARCHES)
def test_on_a_gpu_it_is_too(name: str, deterministic: None) -> None:
    check(lambda *words: search_of(*SEARCHES[name], *SHORT, *words, device=CUDA))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("cuda_graph", ["false", "auto"])
@pytest.mark.parametrize("name", [*SEARCHES, "snas"])
def test_a_step_on_a_gpu_does_not_wait(name: str, cuda_graph: str) -> None:
    words = SEARCHES.get(name, ["snas_imdn", *IMDN])
    search = search_of(*words, f"search:cuda_graph={cuda_graph}", device=CUDA)
    for _ in range(WARM_UP + 1):  # recording waits
        search.take_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        search.take_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
def test_a_batch_arrives_on_the_gpu() -> None:
    batch = torch.rand(4, 3, 16, 16)
    assert torch.equal(to_device(batch, CUDA).cpu(), batch)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def check(build: Callable[..., Searcher]) -> None:
    plain, recorded = build(), build("search:cuda_graph=auto")
    histories: list[list[dict[str, Any]]] = [[], []]
    for search, history in zip((plain, recorded), histories, strict=True):
        search.run(on_epoch=history.append)
    assert recorded._recorded is not None and len(histories[0]) == 2
    for left, right in zip(*histories, strict=True):
        assert {**left, "seconds": 0} == {**right, "seconds": 0}
    states = (
        tree_leaves((search.space.state_dict(), search.weight_optimizer.state_dict()["state"])) for search in (plain, recorded)
    )
    assert all(torch.equal(left, right) for left, right in zip(*states, strict=True))


def fused(search: Searcher) -> Searcher:
    """Optimizers that count their steps in a tensor of the device, as on a GPU, where others count in Python."""
    for optimizer in (search.weight_optimizer, search.alpha_optimizer):
        optimizer.param_groups[0]["fused"] = True
    return search


@pytest.mark.parametrize(("strength", "rate"), [(0.2, 0.0), (0.0, 0.5)])
def test_what_an_epoch_changes_is_recorded_anew(strength: float, rate: float, stand_in: None) -> None:
    states = []
    for kind in (recording, dataclasses.replace):
        search = fused(searcher(0.1, sa, epochs=2))
        search.objective = dataclasses.replace(search.objective, strength=lambda epoch: 0.1 + strength * epoch)
        search.scheduler = torch.optim.lr_scheduler.ExponentialLR(search.weight_optimizer, 1 - rate)
        search = kind(search)
        search.run()
        states.append(flat(search))
    assert torch.equal(*states)


@pytest.mark.parametrize("stop", [3, 27])
def test_a_restart_and_a_resumed_search_record_anew(stop: int, stand_in: None) -> None:
    straight, first, second = (dataclasses.replace(fused(restarting())), *(recording(fused(restarting())) for _ in "ab"))
    straight.run()
    first.run(between_steps=lambda: first.step == stop)
    before = second._recorded
    second.load_state_dict(first.state_dict())
    assert second._recorded is not before
    second.run()
    assert straight.record(4)["alpha"] == second.record(4)["alpha"] and second.step == 40


def test_what_cannot_be_recorded_says_why() -> None:
    assert recording(searcher()).not_recorded == "the device is cpu, not cuda"
    with pytest.raises(UserError, match=r"^search\.cuda_graph is true, but the device is meta, .*\. Set it to auto or false\.$"):
        search_of("sac_imdn", *IMDN, "search:cuda_graph=true")
