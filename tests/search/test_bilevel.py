"""alpha's gradient against numeric derivatives in float64 (with a squared error: an absolute one has kinks)."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.bilevel import RADIUS, StepContext, alpha_gradient, alpha_gradient_by_differences, momentum_and_decay
from sr_nas.search.objective import ChoiceLogits, Objective, none, sa
from tests.search.toy import ToySpace, ToyStream

COSTS = {"one": torch.tensor([1.0, 9.0, 25.0], dtype=torch.float64), "two": torch.tensor([1.0, 9.0], dtype=torch.float64)}
CHOICES = ToySpace().choices()
OBJECTIVE = Objective(F.mse_loss, partial(sa, nu=0.25, mu=3.0), lambda epoch: 0.2 * epoch, CHOICES, {"flops": (0.3, COSTS)})
EPOCH = 4


def context(objective: Objective = OBJECTIVE, space: Any = None, **settings: Any) -> StepContext:
    torch.manual_seed(0)
    space = (space or ToySpace()).double().train()
    alpha = Alpha(CHOICES, "normal", 0.5).double()
    return StepContext(space, alpha, softmax, objective, EPOCH, ToyStream(1).next(), ToyStream(2).next(), **settings)


def value_after_look_ahead(step: StepContext) -> float:
    """The objective at w - xi * dL_train/dw, with the step really taken on a copy."""
    space = copy.deepcopy(step.space)
    weights = {label: value.detach() for label, value in step.alpha.relax(softmax).items()}
    if step.xi:
        F.mse_loss(space(step.training[0], weights), step.training[1]).backward()
        with torch.no_grad():
            for parameter in space.parameters():
                assert parameter.grad is not None
                parameter -= step.xi * parameter.grad
    with torch.no_grad():
        task = F.mse_loss(space(step.validation[0], weights), step.validation[1])
        if step.on_both:
            task = task + F.mse_loss(space(step.training[0], weights), step.training[1])
        return OBJECTIVE(task, step.alpha.by_label(), weights, EPOCH)[0].item()


def numeric_gradient(step: StepContext) -> Tensor:
    gradient, size = [], 1e-5
    for logits in step.alpha.parameters():
        for index in range(len(logits)):
            values = []
            for sign in (1, -1):
                logits.data[index] += sign * size
                values.append(value_after_look_ahead(step))
                logits.data[index] -= sign * size
            gradient.append((values[0] - values[1]) / (2 * size))
    return torch.tensor(gradient, dtype=torch.float64)


def gradient_of(step: StepContext, function: Any = alpha_gradient, **settings: Any) -> Tensor:
    """The gradient of all choices in one vector."""
    step.alpha.zero_grad()
    function(step, **settings)
    return torch.cat([parameter.grad for parameter in step.alpha.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("on_both", [False, True])
@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_both_orders_are_the_numeric_gradient(xi: float, on_both: bool) -> None:
    step = context(xi=xi, on_both=on_both)
    torch.testing.assert_close(gradient_of(step), numeric_gradient(step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("function", [alpha_gradient, alpha_gradient_by_differences])
def test_the_look_ahead_can_be_a_step_of_sgd_with_momentum_and_weight_decay(function: Any) -> None:
    plain = context(xi=0.1)
    optimizer = torch.optim.SGD(plain.space.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
    weights = {label: value.detach() for label, value in plain.alpha.relax(softmax).items()}

    def take_step(step: StepContext, values: Any, sgd: torch.optim.Optimizer) -> None:
        sgd.zero_grad()
        F.mse_loss(step.space(step.training[0], values), step.training[1]).backward()
        sgd.step()

    take_step(plain, weights, optimizer)  # which makes the momentum
    step = dataclasses.replace(plain, drift=momentum_and_decay(optimizer, plain.space))

    def value() -> float:
        there = dataclasses.replace(step, space=copy.deepcopy(step.space), xi=0.0)
        sgd = torch.optim.SGD(there.space.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)
        sgd.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        take_step(there, {label: value.detach() for label, value in step.alpha.relax(softmax).items()}, sgd)
        return value_after_look_ahead(there)

    gradient, numeric = gradient_of(step, function), []
    for logits in step.alpha.parameters():
        for index in range(len(logits)):
            sides = []
            for size in (1e-5, -1e-5):
                logits.data[index] += size
                sides.append(value())
                logits.data[index] -= size
            numeric.append((sides[0] - sides[1]) / 2e-5)
    torch.testing.assert_close(gradient, torch.tensor(numeric, dtype=torch.float64), rtol=1e-4, atol=1e-7)
    assert (gradient - gradient_of(plain, function)).abs().max() > 1e-3


def test_the_second_order_differs_from_the_first() -> None:
    assert (gradient_of(context(xi=0.5)) - gradient_of(context())).abs().max() > 1e-4


def test_the_gradient_is_added_to_what_is_there() -> None:
    step = context()
    once = gradient_of(step)
    alpha_gradient(step)
    twice = torch.cat([parameter.grad for parameter in step.alpha.parameters() if parameter.grad is not None])
    torch.testing.assert_close(twice, 2 * once)


def test_a_choice_that_is_not_regularised_has_no_share_in_the_regulariser() -> None:
    without = gradient_of(context(Objective(F.mse_loss, sa, lambda _: 0.0, CHOICES)))
    partly = gradient_of(context(Objective(F.mse_loss, sa, lambda _: 0.6, {"one": CHOICES["one"]})))
    # Eq. 8 over the three candidates of "one": its gradient is 0.6 / 3 for each of them.
    torch.testing.assert_close(partly[:3] - without[:3], torch.full((3,), 0.2, dtype=torch.float64))
    assert torch.equal(partly[3:], without[3:])


def test_nothing_regularised_is_no_regulariser() -> None:
    assert alpha_gradient(context(Objective(F.mse_loss, sa, lambda _: 0.6, {})))["regularizer"].item() == 0


@pytest.mark.parametrize("function", [alpha_gradient, alpha_gradient_by_differences])
def test_the_supernet_is_left_alone(function: Any) -> None:
    step = context(xi=0.5)
    before = copy.deepcopy(step.space.state_dict())
    function(step)
    assert all(torch.equal(before[name], tensor) for name, tensor in step.space.state_dict().items())
    assert all(parameter.grad is None for parameter in step.space.parameters())


def test_parts_of_the_objective() -> None:
    step = context()
    parts = alpha_gradient(step)
    logits = {label: ChoiceLogits(CHOICES[label].candidates, value) for label, value in step.alpha.by_label().items()}
    assert parts["regularizer"].item() == 0.2 * EPOCH * sa(logits, nu=0.25, mu=3.0).item()
    torch.testing.assert_close(parts["total"], parts["task"] + parts["regularizer"] + parts["cost"])


def test_no_strength_is_no_regularizer_to_the_bit() -> None:
    strengthless = gradient_of(context(Objective(F.mse_loss, sa, lambda _: 0.0, CHOICES)))
    assert torch.equal(strengthless, gradient_of(context(Objective(F.mse_loss, none, lambda _: 1.0, CHOICES))))


@pytest.mark.parametrize("on_both", [False, True])
def test_finite_differences_come_to_the_exact_second_order_with_the_square_of_the_radius(on_both: bool) -> None:
    step = context(xi=0.5, on_both=on_both)
    exact = gradient_of(step)
    gradients = [gradient_of(step, alpha_gradient_by_differences, radius=radius) for radius in (0.1, 0.01, 0.001)]
    errors = [(gradient - exact).norm().item() for gradient in gradients]
    parts = alpha_gradient(step)
    assert {name: part.item() for name, part in alpha_gradient_by_differences(step).items()} == pytest.approx(
        {name: part.item() for name, part in parts.items()}
    )
    second_part = (gradient_of(context(on_both=on_both)) - exact).norm().item()
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([100, 100], rel=0.05)
    assert errors[1] < 1e-4 * second_part


class _Drawing(ToySpace):
    """As with drop-path or noise: every pass draws from PyTorch's own generator."""

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        return super().forward(x, weights) * (0.5 + torch.rand((), dtype=x.dtype))


def test_both_sides_of_a_difference_draw_the_same() -> None:
    step, gradients = context(space=_Drawing(), xi=0.5), []
    for radius in (1e-3, 1e-5):
        torch.manual_seed(1)
        gradients.append(gradient_of(step, alpha_gradient_by_differences, radius=radius))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=0)
    state = torch.get_rng_state()
    gradient_of(step, alpha_gradient_by_differences)
    assert not torch.equal(state, torch.get_rng_state())  # the next step draws anew


def test_the_radius_is_that_of_darts() -> None:
    step = context(xi=0.5)
    default, darts = (gradient_of(step, alpha_gradient_by_differences, **radius) for radius in ({}, {"radius": 0.01}))
    assert torch.equal(default, darts) and RADIUS == 0.01


def test_finite_differences_stand_a_loss_that_is_flat() -> None:
    step = context(Objective(lambda output, _: 0 * output.sum(), sa, lambda _: 0.6, CHOICES), xi=0.5)
    gradient = gradient_of(step, alpha_gradient_by_differences)
    torch.testing.assert_close(gradient, torch.full((5,), 0.12, dtype=torch.float64))


class _Scaled(torch.autograd.Function):
    """``weight * x``, which notes whether the weight's gradient was needed."""

    needed: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        _Scaled.needed.append(ctx.needs_input_grad[1])
        return grad * weight, (grad * x).sum() if ctx.needs_input_grad[1] else None


class _Wrapped(ToySpace):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        return _Scaled.apply(super().forward(x, weights), self.factor)


def test_the_first_order_asks_for_no_gradient_of_weights_and_leaves_none() -> None:
    for xi, needed in ((0.0, [False]), (0.1, [True])):
        _Scaled.needed.clear()
        step = context(space=_Wrapped(), xi=xi)
        alpha_gradient(step)
        assert _Scaled.needed[:1] == needed
        assert all(parameter.grad is None and parameter.requires_grad for parameter in step.space.parameters())
