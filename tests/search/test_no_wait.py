"""A step of a search never waits for the device: it runs on tensors without values, so that nothing in it can have read one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.search.searcher import Searcher
from sr_nas.task import build_searcher
from tests.conftest import REPOSITORY

META, CPU = torch.device("meta"), torch.device("cpu")
SMALL = ["network_g:nf=16", "datasets:train:batch_size_per_gpu=2", "datasets:train:gt_size=16", "search:warmup_epochs=0"]
ALIKE = "network_g:candidates=[conv_3x3, conv_3x3_bn, dsconv_3x3, dsconv_5x5_bn]"
IMDN, DLSR, SECOND = ["network_g:num_blocks=1", ALIKE], ["network_g:num_cells=2"], "search:order=second"
SEARCHES = {
    "sac, two budgets": ["sac_imdn", *IMDN, "search:budget={macs_hr: 3G, params: 9000}"],
    "snas": ["snas_imdn", *IMDN],
}
MORE_SEARCHES = {
    "sac": ["sac_imdn", *IMDN],
    "dlsr": ["dlsr", *DLSR],
    "uniform_path": ["random_sharing_imdn", *IMDN, "search:budget={}", "search:selection={type: argmax}"],
    "sac, FLOPs term": ["sac_imdn_flops", *IMDN],
    "sac, second order": ["sac_imdn", *IMDN, SECOND],
    "sac, finite differences": ["sac_imdn", *IMDN, SECOND, "search:hessian=finite_difference"],
    "sac, clipped": ["sac_imdn", *IMDN, "train:grad_clip_norm=1"],
    "sac, one at a time": ["sac_imdn", *IMDN, "network_g:execution=plain"],
    "sac, SGD": ["sac_imdn", *IMDN, "train:optim_g={type: SGD, lr: 1e-3, momentum: 0.9}"],
    "sac, all candidates": ["sac_imdn", IMDN[0]],
    "sa": ["sa_imdn", *IMDN],
    "beta": ["beta_imdn", *IMDN],
    "darts": ["darts_imdn", *IMDN],
    "random perturbation": ["sdarts_rs_imdn", *IMDN],
    "adversarial perturbation": ["sdarts_adv_imdn", *IMDN],
    "sigmoid, two terms": ["sa_fairdarts_imdn", *IMDN],
    "single level": ["sa_snas_single_imdn", *IMDN],
    "sa, dlsr": ["sa_dlsr", *DLSR],
}


def search_of(file: str, *words: str, device: torch.device = META) -> Searcher:
    options = load_options(SearchOptions, REPOSITORY / "options" / f"{file}.yml", [*SMALL, *words])
    searcher = build_searcher(options, device)
    searcher.space.train()
    return searcher


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a GPU: reading a value, a result whose shape depends on values, a copy to or from it that blocks."""

    READING = ("_local_scalar_dense", "item", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2")

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result, kwargs = func(*args, **(kwargs or {})), kwargs or {}
        name = func.__name__.split(".")[0]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in inputs if tensor.dim() or name in ("_to_copy", "copy_")}
        if name in self.READING:
            assert self.device not in devices, f"{func} reads a value"
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.dtype == torch.int64 for index in args[1]), f"{func} by a mask"
        if name in ("_to_copy", "copy_") and isinstance(result, Tensor):
            moved = len(devices | {result.device.type}) > 1
            assert not moved or kwargs.get("non_blocking") or True in args[2:], f"{func} waits"
        return result


class NoUploads(TorchFunctionMode):
    """Refuses what copies numbers of Python to the device where :class:`NoWaiting` does not see it, and waits for that too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            assert result.device.type == "cpu", f"{func} waits"
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert args[0].device.type == "cpu" or not any(isinstance(place, list) for place in places), "a list waits"
        return result


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [*SEARCHES.values(), *(pytest.param(words, marks=pytest.mark.slow) for words in MORE_SEARCHES.values())],
    ids=[*SEARCHES, *MORE_SEARCHES],
)
def test_a_step_reads_nothing_of_the_device(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which refuses tensors without values
    searcher = search_of(*words)
    searcher.take_step()  # what is made once for all steps
    with NoUploads(), NoWaiting(META.type):
        losses = searcher.take_step()
    assert len(losses) == (5 if searcher.learns_alpha else 1) and all(loss.is_meta for loss in losses.values())


def test_a_step_in_bf16_reads_nothing() -> None:
    """On the CPU, since there is no autocast of tensors without values."""
    searcher = search_of("sac_imdn", *IMDN, "train:precision=bf16", "train:grad_clip_norm=1", device=CPU)
    training, validation = (searcher.next_batch(stream) for stream in (searcher.training, searcher.validation))
    with NoWaiting(CPU.type):
        searcher.alpha_gradient(validation, training)
        searcher.alpha_optimizer.step()
        searcher.weight_step(training)


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.add_(1) if x[0] > 0 else x,
        lambda x: x + torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: x[[0, 1]],
    ],
)
def test_what_waits_is_noticed(waiting: Callable[[Tensor], Any]) -> None:
    x = torch.ones(3, device=META)
    with pytest.raises((AssertionError, RuntimeError)), NoUploads(), NoWaiting(META.type):
        waiting(x)
