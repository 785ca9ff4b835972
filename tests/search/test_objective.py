"""Regularisers, their schedules, and costs."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.genotype import Choice
from sr_nas.registry import REGULARIZERS
from sr_nas.search.objective import (
    ChoiceLogits,
    Objective,
    beta,
    constant,
    dirichlet_kl,
    expected_cost,
    l2,
    linear,
    none,
    normalised_cost,
    sa,
    zero_one,
)

NAMES = ("none", "skip", "conv", "pool", "other")
ALPHA = [-2.0, -0.5, 0.0, 1.0, 3.0]
TABLE = {"one": torch.tensor([1.0, 3.0]), "two": torch.tensor([10.0, 20.0, 70.0])}


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def choices(*logits: torch.Tensor) -> dict[str, ChoiceLogits]:
    return {f"edge{number}": ChoiceLogits(NAMES[: len(values)], values) for number, values in enumerate(logits)}


@pytest.mark.parametrize(
    ("nu", "mu", "expected"), [(1.0, 0.0, 0.3), (1.0, 7.0, 0.3), (0.25, 1e6, 0.675), (0.0, 1 / math.sqrt(2), 0.7275052037428601)]
)
def test_smooth_activation_by_hand(nu: float, mu: float, expected: float) -> None:
    assert sa(choices(tensor(*ALPHA)), nu=nu, mu=mu).item() == pytest.approx(expected, abs=1e-15)


def test_smooth_activation_special_cases() -> None:
    a = tensor(*ALPHA)
    assert sa(choices(a), nu=0.0, mu=1 / math.sqrt(2)).item() == pytest.approx(
        torch.nn.functional.gelu(a).mean().item(), abs=1e-15
    )
    leaky = torch.nn.functional.leaky_relu(a, 0.25).mean()
    assert sa(choices(a), nu=0.25, mu=1e9).item() == pytest.approx(leaky.item(), abs=1e-15)


@pytest.mark.parametrize(("nu", "mu"), [(0.3, 0.8), (-0.5, 2.0), (1.7, 0.4)])
def test_smooth_activation_is_equation_7_for_any_nu_and_mu(nu: float, mu: float) -> None:
    terms = [((1 + nu) * a + (1 - nu) * a * math.erf(mu * (1 - nu) * a)) / 2 for a in ALPHA]
    assert sa(choices(tensor(*ALPHA)), nu=nu, mu=mu).item() == pytest.approx(sum(terms) / 5, abs=1e-14)


def test_smooth_activation_divides_by_candidates_and_choices() -> None:
    first, second = tensor(1.0, 2.0), tensor(5.0, -4.0)
    assert sa(choices(first, second)).item() == pytest.approx((1 + 2 + 5 - 4) / (2 * 2))


@pytest.mark.parametrize("settings", [{}, {"nu": 0.25, "mu": 3.0}, {"nu": 0.0, "mu": 0.7}])
def test_smooth_activation_gradient(settings: dict[str, float]) -> None:
    assert torch.autograd.gradcheck(lambda a: sa(choices(a), **settings), (tensor(*ALPHA),))


def test_beta_and_l2_by_hand() -> None:
    first, second = tensor(0.0, 1.0), tensor(2.0, -1.0)
    expected = (math.log(1 + math.e) + math.log(math.e**2 + math.exp(-1))) / 2
    assert beta(choices(first, second)).item() == pytest.approx(expected, abs=1e-14)
    assert l2(choices(first, second)).item() == pytest.approx(0 + 1 + 4 + 1)
    assert none(choices(first)).item() == 0


def test_divergence_of_dirichlet_distributions_by_its_closed_form() -> None:
    """log G(sum c) - sum log G(c) - log G(n) + sum (c - 1) (psi(c) - psi(sum c)), psi by differences of log G."""

    def psi(x: float) -> float:
        return (math.lgamma(x + 1e-4) - math.lgamma(x - 1e-4)) / 2e-4

    expected = 0.0
    for values in ((-1.0, 0.0, 2.0), (0.5, -0.3)):
        c = [a + 1 if a > 0 else math.exp(a) for a in values]
        expected += math.lgamma(sum(c)) - sum(map(math.lgamma, c)) - math.lgamma(len(c))
        expected += sum((each - 1) * (psi(each) - psi(sum(c))) for each in c)
    assert dirichlet_kl(choices(tensor(-1.0, 0.0, 2.0), tensor(0.5, -0.3))).item() == pytest.approx(expected, abs=1e-6)
    assert expected > 0.1 and dirichlet_kl(choices(tensor(0.0, 0.0))).item() == pytest.approx(0, abs=1e-12)


def test_zero_one_is_the_negative_mean_square_distance_from_a_half() -> None:
    """FairDARTS's public code: -mse(sigmoid(alpha), 0.5); descent takes every weight away from 1/2."""
    logits = tensor(0.4, -0.2, 3.0)
    expected = -sum((1 / (1 + math.exp(-a)) - 0.5) ** 2 for a in (0.4, -0.2, 3.0)) / 3
    loss = zero_one(choices(logits))
    assert loss.item() == pytest.approx(expected, abs=1e-15)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient * logits < 0).all()


def test_a_further_regularizer_adds_to_the_first_with_a_strength_and_choices_of_its_own() -> None:
    table = {"edge0": Choice(NAMES[:2]), "edge1": Choice(NAMES[:3])}
    alpha = {"edge0": tensor(0.4, -0.2), "edge1": tensor(1.0, 2.0, -0.7)}
    one, further = {"edge1": table["edge1"]}, (zero_one, lambda epoch: 10.0 + epoch, table)
    objective = Objective(torch.nn.functional.mse_loss, sa, lambda epoch: 0.2 * epoch, one, further=(further,))
    parts = objective(torch.tensor(2.0), alpha, {}, 3)[1]
    expected = 0.6 * sa(choices(alpha["edge1"])) + 13 * zero_one(choices(*alpha.values()))
    torch.testing.assert_close(parts["regularizer"], expected)
    assert parts["total"].item() == pytest.approx(2 + expected.item()) and objective.strengths(3) == pytest.approx((0.6, 13))


@pytest.mark.parametrize(("value", "shown"), [(None, "NoneType"), ("1", "str"), (torch.ones(1), r"a tensor of shape \[1\]")])
def test_a_regularizer_that_returns_no_number_is_named(value: object, shown: str) -> None:
    def mine(_: object) -> object:
        return value

    objective = Objective(torch.nn.functional.mse_loss, partial(mine), lambda epoch: 1.0, {"edge0": Choice(NAMES[:2])})
    with pytest.raises(UserError, match=f"the regulariser mine must return a scalar, for example by .*; it returns {shown}"):
        objective(torch.tensor(2.0), {"edge0": tensor(0.4, -0.2)}, {}, 1)


def test_weight_decay_in_adam_is_l2_of_half_its_strength() -> None:
    """Adam's weight decay d adds d * alpha to the gradient; that of lambda * sum alpha^2 is 2 * lambda * alpha."""
    target, paths = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), []
    for decay, strength in ((0.1, 0.0), (0.0, 0.05), (0.0, 0.0)):
        logits = tensor(0.3, -0.1, 0.2)
        optimizer = torch.optim.Adam([logits], lr=0.05, betas=(0.5, 0.999), weight_decay=decay)
        for _ in range(50):
            optimizer.zero_grad()
            ((logits.softmax(0) - target).square().sum() + strength * l2(choices(logits))).backward()
            optimizer.step()
        paths.append(logits.detach())
    torch.testing.assert_close(paths[0], paths[1], rtol=0, atol=1e-12)
    assert (paths[0] - paths[2]).abs().max() > 0.1


def test_the_mean_cannot_move_beta_under_plain_gradient_descent() -> None:
    """What the docstring of sa says: eq. 8 shifts all alphas alike, and softmax does not see it."""
    plain, regular = tensor(0.3, -0.1, 0.2), tensor(0.3, -0.1, 0.2)
    target = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for logits, strength in ((plain, 0.0), (regular, 5.0)):
        optimizer = torch.optim.SGD([logits], lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            ((logits.softmax(0) - target).square().sum() + strength * sa(choices(logits))).backward()
            optimizer.step()
    torch.testing.assert_close(plain.softmax(0), regular.softmax(0), rtol=0, atol=1e-12)
    assert (plain - regular).min() > 1


def test_under_adam_it_slows_beta() -> None:
    moved = []
    for strength in (0.0, 5.0):
        logits = tensor(0.0, 0.0, 0.0)
        optimizer = torch.optim.Adam([logits], lr=0.01, betas=(0.5, 0.999))
        for _ in range(100):
            optimizer.zero_grad()
            (-logits.softmax(0)[0] + strength * sa(choices(logits))).backward()
            optimizer.step()
        moved.append(logits.softmax(0)[0].item() - 1 / 3)
    assert 0 < moved[1] < 0.25 * moved[0]


def test_schedules() -> None:
    assert [linear(epoch, slope=0.2) for epoch in (1, 5, 50)] == pytest.approx([0.2, 1.0, 10.0])
    assert [linear(epoch, slope=0.5, warmup_epochs=15) for epoch in (1, 15, 16, 17)] == [0, 0, 0.5, 1.0]
    assert [constant(epoch, value=3.0, warmup_epochs=2) for epoch in (1, 2, 3)] == [0, 0, 3.0]


def test_every_regularizer_has_a_gradient() -> None:
    for name in set(REGULARIZERS.names()) - {"none"}:
        a = tensor(*ALPHA)
        REGULARIZERS.get(name)(choices(a)).backward()
        assert a.grad is not None and a.grad.abs().sum() > 0, name


def test_equation_18_by_hand() -> None:
    weights = {"one": torch.tensor([0.25, 0.75]), "two": torch.tensor([0.2, 0.3, 0.5])}
    expected = ((0.25 * 1 + 0.75 * 3) / 4 + (0.2 * 10 + 0.3 * 20 + 0.5 * 70) / 100) / 2
    assert normalised_cost(weights, TABLE).item() == pytest.approx(expected)
    assert expected_cost(weights, TABLE).item() == pytest.approx(0.25 + 2.25 + 2 + 6 + 35)


def test_the_gradient_reaches_every_alpha_and_favours_the_cheap() -> None:
    alpha = {label: torch.zeros(len(costs), requires_grad=True) for label, costs in TABLE.items()}
    normalised_cost({label: logits.softmax(0) for label, logits in alpha.items()}, TABLE).backward()
    for label, logits in alpha.items():
        assert logits.grad is not None
        assert (logits.grad != 0).all()
        assert logits.grad.argsort().tolist() == TABLE[label].argsort().tolist()
