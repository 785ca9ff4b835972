"""alpha's gradient against numeric derivatives in float64 (with a squared error: an absolute one has kinks)."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.search.alpha import Alpha, softmax
from sr_nas.search.bilevel import alpha_gradient, alpha_gradient_by_differences
from sr_nas.search.objective import Objective, sa
from tests.search.toy import ToySpace, ToyStream

COSTS = {"one": torch.tensor([1.0, 9.0, 25.0], dtype=torch.float64), "two": torch.tensor([1.0, 9.0], dtype=torch.float64)}
OBJECTIVE = Objective(
    F.mse_loss, partial(sa, nu=0.25, mu=3.0), lambda epoch: 0.2 * epoch, ("one", "two"), {"flops": (0.3, COSTS)}
)
EPOCH = 4


def setting() -> tuple[ToySpace, Alpha, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    space = ToySpace().double().train()
    alpha = Alpha(space.choices(), "normal", 0.5).double()
    return space, alpha, ToyStream(1).next(), ToyStream(2).next()


def value_after_look_ahead(
    space: ToySpace,
    alpha: Alpha,
    validation: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    xi: float,
    on_both: bool = False,
) -> float:
    """The objective at w - xi * dL_train/dw, with the step really taken on a copy."""
    space = copy.deepcopy(space)
    weights = {label: value.detach() for label, value in alpha.relax(softmax).items()}
    if xi:
        F.mse_loss(space(training[0], weights), training[1]).backward()
        with torch.no_grad():
            for parameter in space.parameters():
                assert parameter.grad is not None
                parameter -= xi * parameter.grad
    with torch.no_grad():
        task = F.mse_loss(space(validation[0], weights), validation[1])
        if on_both:
            task = task + F.mse_loss(space(training[0], weights), training[1])
        return OBJECTIVE(task, alpha.by_label(), weights, EPOCH)[0].item()


def numeric_gradient(
    space: ToySpace,
    alpha: Alpha,
    validation: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    xi: float,
    on_both: bool = False,
) -> list[Tensor]:
    gradients, step = [], 1e-5
    for logits in alpha.parameters():
        gradient = torch.zeros_like(logits)
        for index in range(len(logits)):
            values = []
            for sign in (1, -1):
                logits.data[index] += sign * step
                values.append(value_after_look_ahead(space, alpha, validation, training, xi, on_both))
                logits.data[index] -= sign * step
            gradient[index] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


def gradients(alpha: Alpha) -> list[Tensor]:
    found = [parameter.grad for parameter in alpha.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient.clone() for gradient in found if gradient is not None]


def test_first_order() -> None:
    space, alpha, validation, training = setting()
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training)
    for found, expected in zip(gradients(alpha), numeric_gradient(space, alpha, validation, training, 0.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_second_order_is_exact_and_differs_from_first() -> None:
    space, alpha, validation, training = setting()
    xi = 0.5
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training, xi)
    second = gradients(alpha)
    for found, expected in zip(second, numeric_gradient(space, alpha, validation, training, xi), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    alpha.zero_grad()
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training)
    assert max((a - b).abs().max() for a, b in zip(second, gradients(alpha), strict=True)) > 1e-4


@pytest.mark.parametrize("xi", [0.0, 0.5])
def test_alpha_on_both_batches_descends_on_the_sum(xi: float) -> None:
    space, alpha, validation, training = setting()
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training, xi, on_both=True)
    for found, expected in zip(gradients(alpha), numeric_gradient(space, alpha, validation, training, xi, True), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_a_choice_that_is_not_regularised_has_no_share_in_the_regulariser() -> None:
    space, alpha, validation, training = setting()
    without = Objective(F.mse_loss, sa, lambda _: 0.0, ("one", "two"))
    partly = Objective(F.mse_loss, sa, lambda _: 0.6, ("one",))
    found = []
    for objective in (without, partly):
        alpha.zero_grad()
        alpha_gradient(space, alpha, softmax, objective, EPOCH, validation, training)
        found.append(gradients(alpha))
    # Eq. 8 over the three candidates of "one": its gradient is 0.6 / 3 for each of them.
    torch.testing.assert_close(found[1][0] - found[0][0], torch.full((3,), 0.2, dtype=torch.float64))
    assert torch.equal(found[1][1], found[0][1])


def test_nothing_regularised_is_no_regulariser() -> None:
    space, alpha, validation, training = setting()
    objective = Objective(F.mse_loss, sa, lambda _: 0.6, ())
    assert alpha_gradient(space, alpha, softmax, objective, EPOCH, validation, training)["regularizer"].item() == 0


def test_the_supernet_is_left_alone() -> None:
    space, alpha, validation, training = setting()
    before = copy.deepcopy(space.state_dict())
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training, 0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in space.state_dict().items())
    assert all(parameter.grad is None for parameter in space.parameters())


def test_parts_of_the_objective() -> None:
    space, alpha, validation, training = setting()
    parts = alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training)
    assert parts["regularizer"].item() == 0.2 * EPOCH * sa(list(alpha.logits.values()), nu=0.25, mu=3.0).item()
    torch.testing.assert_close(parts["total"], parts["task"] + parts["regularizer"] + parts["cost"])


def test_no_strength_is_no_regularizer_to_the_bit() -> None:
    found = []
    for strength, regularizer in ((0.0, sa), (1.0, lambda alpha: alpha[0].new_zeros(()))):
        space, alpha, validation, training = setting()
        objective = Objective(F.mse_loss, regularizer, lambda _, strength=strength: strength, ("one", "two"))  # type: ignore[misc]
        alpha_gradient(space, alpha, softmax, objective, EPOCH, validation, training)
        found.append(gradients(alpha))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("on_both", [False, True])
def test_finite_differences_come_to_the_exact_second_order_with_the_square_of_the_radius(on_both: bool) -> None:
    xi, errors = 0.5, []
    space, alpha, validation, training = setting()
    batches = (validation, training)
    parts = alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, *batches, xi, on_both)
    exact = torch.cat(gradients(alpha))
    for radius in (0.1, 0.01, 0.001):
        alpha.zero_grad()
        found = alpha_gradient_by_differences(space, alpha, softmax, OBJECTIVE, EPOCH, *batches, xi, on_both, radius=radius)
        errors.append((torch.cat(gradients(alpha)) - exact).norm().item())
        assert {name: part.item() for name, part in found.items()} == pytest.approx({n: p.item() for n, p in parts.items()})
    alpha.zero_grad()
    alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, *batches, 0.0, on_both)
    second_part = (torch.cat(gradients(alpha)) - exact).norm().item()
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([100, 100], rel=0.05)
    assert errors[1] < 1e-4 * second_part


def test_finite_differences_leave_the_supernet_alone_and_stand_a_loss_that_is_flat() -> None:
    space, alpha, validation, training = setting()
    before = copy.deepcopy(space.state_dict())
    flat = Objective(lambda output, _: 0 * output.sum(), sa, lambda _: 0.6, ("one", "two"))
    alpha_gradient_by_differences(space, alpha, softmax, flat, EPOCH, validation, training, 0.5)
    torch.testing.assert_close(torch.cat(gradients(alpha)), torch.full((5,), 0.12, dtype=torch.float64))
    assert all(torch.equal(before[name], tensor) for name, tensor in space.state_dict().items())
    assert all(parameter.grad is None for parameter in space.parameters())


class _Scaled(torch.autograd.Function):
    """``weight * x``, which notes whether the weight's gradient was wanted."""

    wanted: ClassVar[list[bool]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        _Scaled.wanted.append(ctx.needs_input_grad[1])
        return grad * weight, (grad * x).sum() if ctx.needs_input_grad[1] else None


class _Wrapped(ToySpace):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor, weights: Any) -> Tensor:
        return _Scaled.apply(super().forward(x, weights), self.factor)


def test_the_first_order_asks_for_no_gradient_of_weights_and_leaves_none() -> None:
    _, alpha, training, validation = setting()
    torch.manual_seed(0)
    space = _Wrapped().double().train()
    for xi, wanted in ((0.0, [False]), (0.1, [True])):
        _Scaled.wanted.clear()
        alpha_gradient(space, alpha, softmax, OBJECTIVE, EPOCH, validation, training, xi)
        assert _Scaled.wanted[:1] == wanted
        assert all(parameter.grad is None and parameter.requires_grad for parameter in space.parameters())
