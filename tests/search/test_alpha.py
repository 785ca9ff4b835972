"""Starts of alpha, and relaxations."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from sr_nas.errors import UserError
from sr_nas.genotype import Choice, Genotype
from sr_nas.search.alpha import Alpha, Draw, dirichlet, gumbel_softmax, in_pass, sigmoid, softmax, uniform_path
from tests.search.toy import ToySpace

EDGE = {"edge": Choice(("none", "skip_connect", "conv1", "conv3", "pool"))}
ALPHA = torch.tensor([-1.0, 0.0, 0.5, 1.5], dtype=torch.float64)


def test_alpha_starts() -> None:
    choices = ToySpace().choices()
    noise = Alpha(choices, "normal", 1e-3, generator=torch.Generator().manual_seed(0))
    again = Alpha(choices, "normal", 1e-3, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(noise.logits.values(), again.logits.values(), strict=True))
    assert 0 < max(a.abs().max().item() for a in noise.logits.values()) < 5e-3
    offset = Alpha(choices, "constant", -1.0, {"small": 0.1})
    assert offset.logits["one"].tolist() == pytest.approx([-0.9, -1.0, -1.0])
    with pytest.raises(UserError, match="no choice has the candidate 'smal' - did you mean 'small'"):
        Alpha(choices, offset={"smal": 0.1})


def test_the_unfair_start_has_the_beta_of_figure_4() -> None:
    alpha = Alpha(EDGE, "constant", 0.0, {"skip_connect": 0.1})
    assert alpha.relax(softmax)["edge"].tolist() == pytest.approx([0.196, 0.216, 0.196, 0.196, 0.196], abs=6e-4)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_a_negative_start_moves_beta_only_through_weight_decay(weight_decay: float) -> None:
    """Table 8: softmax does not see a shift of all logits; Adam's coupled weight decay does."""
    target, paths = torch.tensor([0.1, 0.3, 0.2, 0.3, 0.1], dtype=torch.float64), []
    for value in (0.0, -5.0):
        alpha = Alpha(EDGE, "constant", value).double()
        optimizer = torch.optim.Adam(alpha.parameters(), lr=3e-2, betas=(0.5, 0.999), weight_decay=weight_decay)
        for _ in range(30):
            optimizer.zero_grad()
            (alpha.relax(softmax)["edge"] - target).square().sum().backward()
            optimizer.step()
        paths.append(alpha.relax(softmax)["edge"].detach())
    assert ((paths[0] - paths[1]).abs().max() < 1e-6) == (weight_decay == 0)


def test_the_best_of_a_normal_start_is_a_uniform_draw() -> None:
    """Random sampling, the baseline: a search without steps; each seed draws one network."""
    space, count = ToySpace(), 1500
    counts: Counter[Genotype] = Counter()
    for seed in range(count):
        alpha = Alpha(space.choices(), "normal", 1.0, generator=torch.Generator().manual_seed(seed))
        counts[space.decode(alpha.relax(softmax))] += 1
    assert len(counts) == 6
    assert sum((found - count / 6) ** 2 / (count / 6) for found in counts.values()) < 15.1  # chi-square, 5 degrees of freedom, 1%


def test_softmax() -> None:
    torch.testing.assert_close(softmax(ALPHA, temperature=0.5), (2 * ALPHA).exp() / (2 * ALPHA).exp().sum())
    assert in_pass(softmax, (0, 0, 0), 0.0) is softmax


@pytest.mark.parametrize(("epoch", "temperature"), [(1, 1.0), (76, 0.515), (150, 0.03 + 0.97 / 150)])
def test_gumbel_softmax_by_its_formula(epoch: int, temperature: float) -> None:
    """Over the 150 epochs of SNAS, from 1 towards 0.03."""
    progress = (epoch - 1) / 150
    noise = torch.from_numpy(np.random.default_rng([3, 4]).gumbel(size=4))
    expected = ((ALPHA + noise) / temperature).exp()
    found = gumbel_softmax(ALPHA, Draw((3, 4), progress))
    torch.testing.assert_close(found, expected / expected.sum())


def test_the_largest_of_a_sample_is_distributed_as_softmax_of_alpha() -> None:
    draw, count = Draw((0, 0, 0), 1.0), 4000
    largest = torch.stack([gumbel_softmax(ALPHA, draw).argmax() for _ in range(count)]).bincount(minlength=4)
    expected = count * ALPHA.softmax(0)
    assert ((largest - expected).square() / expected).sum() < 11.3  # chi-square, 3 degrees of freedom, 1%


def test_a_cold_sample_is_nearly_one_hot_and_a_warm_one_is_not() -> None:
    def mean_largest(progress: float) -> float:
        draw = Draw((1,), progress)
        return torch.stack([gumbel_softmax(ALPHA, draw).max() for _ in range(300)]).mean().item()

    assert mean_largest(1.0) > 0.98
    assert mean_largest(0.0) < 0.8


def test_gumbel_softmax_has_the_gradient_of_its_sample() -> None:
    logits = ALPHA.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: gumbel_softmax(a, Draw((5,), 0.5)), (logits,))


@pytest.mark.parametrize("picks", [1, 2])
def test_a_hard_sample_is_the_heaviest_of_the_soft_one_with_its_gradient(picks: int) -> None:
    """GDAS: h = one-hot - p + p, of which the first two have no gradient."""
    logits, slope = ALPHA.clone().requires_grad_(), torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    cooling = partial(gumbel_softmax, picks=picks, temperature=10, final_temperature=0.1)
    soft, hard = (cooling(logits, Draw((6,), 0.5), hard=hard) for hard in (False, True))
    heaviest = soft.detach().argsort(descending=True)[:picks].sort().values
    torch.testing.assert_close(hard, torch.eye(4, dtype=torch.float64)[heaviest].sum(0))
    gradients = [torch.autograd.grad(sample @ slope, logits)[0] for sample in (soft, hard)]
    assert torch.equal(*gradients) and gradients[0].abs().min() > 0
    # The temperature halfway is 5.05; p (d - p) / T is the Jacobian of softmax.
    p = soft.detach()
    torch.testing.assert_close(gradients[1], p * (slope - p @ slope) / 5.05)
    with torch.no_grad():
        mask = gumbel_softmax(logits, Draw((6,), 0.5), picks, hard=True)
    assert mask.dtype == torch.bool and mask.nonzero().flatten().tolist() == heaviest.tolist()


def test_a_dirichlet_sample_has_the_moments_of_its_concentration_and_a_gradient_that_moves_its_mean() -> None:
    logits = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([math.exp(-1), 1.0, 2.5], dtype=torch.float64)  # elu(a) + 1
    before = torch.get_rng_state()
    draw = Draw((4, 2), 0.0)
    samples = torch.stack([dirichlet(logits, draw) for _ in range(3000)])
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(samples[0], dirichlet(logits, Draw((4, 2), 0.9)))
    mean, total = c / c.sum(), c.sum()
    deviation = (mean * (1 - mean) / (total + 1)).sqrt()
    assert ((samples.mean(0) - mean).abs() < 4 * deviation / 3000**0.5).all()
    torch.testing.assert_close(samples.std(0), deviation, rtol=0.05, atol=0)
    (gradient,) = torch.autograd.grad(samples[:, 2].mean(), logits)
    slope = torch.tensor([math.exp(-1), 1.0, 1.0], dtype=torch.float64)  # of elu
    torch.testing.assert_close(gradient, slope * (torch.eye(3, dtype=torch.float64)[2] - mean[2]) / total, rtol=0.1, atol=0.003)
    torch.testing.assert_close(dirichlet(logits), mean)
    far = torch.tensor([-20.0, -20.0 + math.log(3)])  # where elu(a) is -1 in single precision
    torch.testing.assert_close(dirichlet(far), torch.tensor([0.25, 0.75]))


def test_sigmoid_weighs_each_candidate_alone() -> None:
    torch.testing.assert_close(sigmoid(ALPHA), 1 / (1 + (-ALPHA).exp()))


def test_without_a_draw_it_is_the_distribution_itself() -> None:
    torch.testing.assert_close(gumbel_softmax(ALPHA, temperature=0.1), ALPHA.softmax(0))


def test_what_is_drawn_depends_on_the_address_alone() -> None:
    relaxation = partial(gumbel_softmax, temperature=2.0)

    def both(*address: int) -> torch.Tensor:
        drawing = in_pass(relaxation, address, 0.2)
        return torch.stack([drawing(ALPHA), drawing(ALPHA)])

    first = both(7, 5, 0)
    assert torch.equal(first, both(7, 5, 0))
    assert not torch.equal(first[0], first[1]), "each choice of a pass has noise of its own"
    for other in ((8, 5, 0), (7, 6, 0), (7, 5, 1)):
        assert not torch.isclose(first, both(*other)).any()


def test_a_uniform_path_keeps_every_set_of_candidates_equally_often_whatever_alpha_is() -> None:
    alpha = Alpha({"op": Choice(("a", "b", "c")), "pair": Choice(("0", "1", "2", "3"), picks=2, of="inputs")}, "normal", 5.0)
    counts: Counter[str] = Counter()
    for step in range(600):
        for label, mask in alpha.relax(in_pass(uniform_path, (3, step, 1), 0.0)).items():
            assert mask.dtype == torch.bool and mask.sum() == alpha.picks[label] and not mask.requires_grad
            counts[label + str(mask.int().tolist())] += 1
    for label, kinds in (("op", 3), ("pair", 6)):
        observed = [count for key, count in counts.items() if key.startswith(label)]
        assert len(observed) == kinds
        assert sum((count - 600 / kinds) ** 2 / (600 / kinds) for count in observed) < 15.1  # chi-square, at most 5 degrees, 1%
    assert torch.equal(uniform_path(ALPHA), ALPHA.softmax(0))
