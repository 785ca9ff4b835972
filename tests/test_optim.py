"""Learning rates over a run, by formulas and by BasicSR's own schedulers."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.optim import Optimizer

from sr_nas.errors import UserError
from sr_nas.optim import (
    CosineAnnealingRestartLR,
    MultiStepRestartLR,
    WarmUp,
    adam,
    adamw,
    cosine,
    linear_decay,
    multistep,
    sgd,
    soap,
)
from sr_nas.optim import step as every
from sr_nas.options.strict import Component, section_model
from sr_nas.registry import LR_SCHEDULES
from sr_nas.runs.run_dir import load_tensors

CYCLES = {"periods": (4, 6, 10), "restart_weights": (1.0, 0.5, 0.25), "eta_min": 0.1}
STEPS = {"milestones": (3, 5, 5, 8, 11), "gamma": 0.5, "restarts": (0, 6, 11), "restart_weights": (1.0, 0.8, 0.6)}


def rates(schedule: Callable[[Optimizer], Any], count: int = 20, lr: float = 2.0) -> list[float]:
    """Learning rates of the iterations 1 to ``count``."""
    optimizer = sgd([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    steps, found = schedule(optimizer), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    return found


def test_the_half_cosine_by_its_formula() -> None:
    expected = [1.5 + 0.5 * math.cos(math.pi * t / 10) for t in range(10)]
    assert rates(lambda optimizer: cosine(optimizer, 10, eta_min=1.0), 10) == pytest.approx(expected)


def test_a_decay_every_so_many_iterations_by_its_formula() -> None:
    found = rates(lambda optimizer: every(optimizer, 20, step_size=3, gamma=0.97), 20)
    assert found == pytest.approx([2 * 0.97 ** (t // 3) for t in range(20)])


def test_the_linear_decay_is_that_of_pc_darts() -> None:
    """adjust_lr of its train_imagenet.py, by the epoch, here of 3 iterations; the last epoch of the run is cut short."""
    epochs, expected = 12, []
    for epoch in range(epochs):
        rate = 0.5 * (epochs - 5 - epoch) / (epochs - 5) if epochs - epoch > 5 else 0.5 * (epochs - epoch) / ((epochs - 5) * 5)
        expected += [rate] * 3
    assert rates(lambda optimizer: linear_decay(optimizer, 35, period=3), 35, lr=0.5) == pytest.approx(expected[:35])
    with pytest.raises(UserError, match="its tail has 5 periods, and the whole run 5"):
        linear_decay(sgd([torch.nn.Parameter(torch.zeros(1))]), 15, period=3)


def test_nesterov_by_its_formula() -> None:
    """v = m v + g and w -= lr (g + m v) (Sutskever et al. 2013, as PyTorch writes it), for the loss w^2 / 2."""
    weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = sgd([weight], lr=0.1, momentum=0.9, nesterov=True)
    w, v = 1.0, 0.0
    for _ in range(4):
        weight.grad = weight.detach().clone()
        optimizer.step()
        v = 0.9 * v + w
        w -= 0.1 * (w + 0.9 * v)
        assert weight.item() == pytest.approx(w, rel=1e-12)
    with pytest.raises(UserError, match="nesterov needs a momentum"):
        sgd([weight], nesterov=True)


def test_soap_is_adam_in_the_eigenbases_of_shampoo() -> None:
    """Algorithm 3 of Vyas et al. (ICLR 2025) until the first update of the bases; vectors, and the first iteration, apart."""
    generator = torch.Generator().manual_seed(0)
    matrix, vector = (torch.nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64)) for size in ((4, 3), (5,)))
    w, b = matrix.detach().clone(), vector.detach().clone()
    optimizer = soap([matrix, vector], lr=0.1, weight_decay=0.2, betas=(0.9, 0.8), precondition_frequency=6)
    m_w, v_w, m_b, v_b = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(b), torch.zeros_like(b)
    for t in range(6):
        matrix.grad, vector.grad = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (w, b))
        optimizer.step()
        if t == 0:
            left, right = (torch.linalg.eigh(g @ g.T)[1] for g in (matrix.grad, matrix.grad.T))
        else:
            rate = 0.1 * math.sqrt(1 - 0.8**t) / (1 - 0.9**t)
            m_w, v_w = 0.9 * m_w + 0.1 * matrix.grad, 0.8 * v_w + 0.2 * (left.T @ matrix.grad @ right) ** 2
            m_b, v_b = 0.9 * m_b + 0.1 * vector.grad, 0.8 * v_b + 0.2 * vector.grad**2
            w -= rate * left @ (left.T @ m_w @ right / (v_w.sqrt() + 1e-8)) @ right.T
            b -= rate * m_b / (v_b.sqrt() + 1e-8)
            w, b = w * (1 - 0.1 * 0.2), b * (1 - 0.1 * 0.2)
        torch.testing.assert_close(matrix.detach(), w, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(vector.detach(), b, rtol=1e-9, atol=1e-9)


def test_soap_goes_on_from_its_state(tmp_path: Path) -> None:
    def steps(weight: torch.nn.Parameter, optimizer: Optimizer, count: range) -> None:
        for seed in count:
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()

    through, stopped = (torch.nn.Parameter(torch.ones(6, 2, 3, 3)) for _ in range(2))
    steps(through, soap([through], precondition_frequency=4), range(15))
    first = soap([stopped], precondition_frequency=4)
    steps(stopped, first, range(7))
    torch.save({"optimizer": first.state_dict()}, tmp_path / "state.pt")
    second = soap([stopped], precondition_frequency=4)
    second.load_state_dict(load_tensors(tmp_path / "state.pt")["optimizer"])
    steps(stopped, second, range(7, 15))
    assert torch.equal(through, stopped)


def test_soap_refuses_a_first_gradient_that_is_not_finite() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = soap([weight])
    weight.grad = torch.full((2, 2), math.nan)
    with pytest.raises(UserError, match="the first gradient is not finite"):
        optimizer.step()


def test_soap_says_where_there_are_no_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def eigh(_: torch.Tensor) -> None:
        raise NotImplementedError("not on MPS")

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    with pytest.raises(UserError, match="SOAP: cpu has no eigenvectors in this PyTorch"):
        soap([torch.nn.Parameter(torch.ones(2))])


def test_cosines_with_restarts_by_their_formula() -> None:
    def rate(t: int) -> float:
        begin, length, weight = next(part for part in ((0, 4, 1.0), (4, 6, 0.5), (10, 10, 0.25)) if t <= part[0] + part[1])
        return 0.1 + weight * 0.5 * 1.9 * (1 + math.cos(math.pi * (t - begin) / length))

    found = rates(lambda optimizer: CosineAnnealingRestartLR(optimizer, 20, **CYCLES))
    assert found == pytest.approx([rate(t) for t in range(20)], rel=1e-12)
    assert found[4] == pytest.approx(0.1)


def test_steps_with_restarts_by_hand() -> None:
    found = rates(lambda optimizer: MultiStepRestartLR(optimizer, 14, **STEPS), 14)
    assert found == pytest.approx([2, 2, 2, 1, 1, 0.25, 1.6, 1.6, 0.8, 0.8, 0.8, 1.2, 1.2, 1.2])


def test_restarts_are_basicsrs(basicsr: ModuleType) -> None:
    from basicsr.models import lr_scheduler as theirs

    for own, other, options in (
        (CosineAnnealingRestartLR, theirs.CosineAnnealingRestartLR, CYCLES),
        (MultiStepRestartLR, theirs.MultiStepRestartLR, STEPS),
    ):
        found = rates(lambda optimizer, own=own, options=options: own(optimizer, 20, **options))
        expected = rates(lambda optimizer, other=other, options=options: other(optimizer, **options))
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: cosine(optimizer, 20, eta_min=0.5),
        lambda optimizer: multistep(optimizer, 20, milestones=[2, 9], gamma=0.1),
        lambda optimizer: CosineAnnealingRestartLR(optimizer, 20, **CYCLES),
    ],
)
def test_warm_up_multiplies_any_schedule_and_leaves_no_trace(schedule: Callable[[Optimizer], Any]) -> None:
    plain, warm = rates(schedule), rates(lambda optimizer: WarmUp(schedule(optimizer), 7))
    assert warm == pytest.approx([rate * min(1, t / 7) for t, rate in enumerate(plain, start=1)], rel=1e-12)
    assert warm[6:] == plain[6:]
    assert rates(lambda optimizer: WarmUp(schedule(optimizer), -1)) == plain


def test_warm_up_resumes_in_its_midst() -> None:
    def steps(optimizer: Optimizer) -> WarmUp:
        return WarmUp(cosine(optimizer, 20, eta_min=0.5), 7)

    optimizers = [sgd([torch.nn.Parameter(torch.zeros(1))], lr=2.0) for _ in range(2)]
    first, second = map(steps, optimizers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no weights are moved here
        for _ in range(4):
            first.step()
        optimizers[1].load_state_dict(optimizers[0].state_dict())
        second.load_state_dict(first.state_dict())
        for _ in range(10):
            first.step()
            second.step()
            assert optimizers[1].param_groups[0]["lr"] == optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"type": "MultiStepRestartLR", "milestones": [1], "restarts": [4, 2], "restart_weights": [1, 1]}, "must ascend"),
        ({"type": "MultiStepRestartLR", "milestones": [1], "restarts": [0, 2]}, "restart_weights: 1 for 2 restarts"),
        ({"type": "CosineAnnealingRestartLR", "periods": [4, 4]}, "restart_weights: 1 for 2 periods"),
        ({"type": "CosineAnnealingRestartLR", "periods": []}, "at least 1 item"),
    ],
)
def test_schedules_without_a_meaning_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        section_model(LR_SCHEDULES, options["type"], Component).model_validate(options)


def test_periods_must_cover_the_run() -> None:
    with pytest.raises(UserError, match="the periods end after 20 iterations, and the run after 21"):
        rates(lambda optimizer: CosineAnnealingRestartLR(optimizer, 21, **CYCLES))


OPTIMIZERS = {
    "Adam": (adam, torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.01, "betas": (0.5, 0.99)}),
    "AdamW": (adamw, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2, "betas": (0.9, 0.999)}),
    "SGD": (sgd, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}),
}


def tensors() -> list[torch.nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(size, generator=random, dtype=torch.float64)) for size in ((3, 5), (7,), (1,))]


def move(optimizer: Optimizer, steps: range) -> list[torch.nn.Parameter]:
    """Go down a slope of its own for every step."""
    parameters: list[torch.nn.Parameter] = optimizer.param_groups[0]["params"]
    for step in steps:
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.sin(parameter.detach() + step) * 10.0 ** (number - 1)
        optimizer.step()
    return parameters


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_in_one_kernel_move_as_pytorchs_plain_ones(name: str) -> None:
    own, theirs, options = OPTIMIZERS[name]
    fused = own(tensors(), **options)
    assert fused.param_groups[0]["fused"]
    found, expected = move(fused, range(20)), move(theirs(tensors(), foreach=False, fused=False, **options), range(20))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("begun_fused", [True, False])
def test_an_optimizer_goes_on_to_the_bit_as_it_was_begun(name: str, begun_fused: bool) -> None:
    own, theirs, options = OPTIMIZERS[name]

    def begin(parameters: list[torch.nn.Parameter]) -> Optimizer:
        return own(parameters, **options) if begun_fused else theirs(parameters, fused=False, **options)

    expected = move(begin(tensors()), range(9))
    first = begin(tensors())
    half = [torch.nn.Parameter(parameter.detach().clone()) for parameter in move(first, range(4))]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = own(half, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert bool(second.param_groups[0]["fused"]) == begun_fused
    assert all(torch.equal(one, other) for one, other in zip(move(second, range(4, 9)), expected, strict=True))
