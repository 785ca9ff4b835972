"""Each method is a choice of relaxation, regulariser, mixing and schedule, and an option file says all of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sr_nas.options.load import load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.search.searcher import Searcher
from sr_nas.task import build_searcher
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "tests" / "jobs" / "tiny.yml"
SNAS = "relaxation={type: gumbel_softmax, temperature: 1.0, final_temperature: 0.03}"
SMOOTH = "regularizer={type: sa, schedule: {type: linear, slope: 0.2}}"
METHODS: dict[str, list[str]] = {
    "DARTS": ["regularizer={type: none}"],
    "DARTS, second order": ["regularizer={type: none}", "order=second"],
    "DARTS, second order by differences": ["regularizer={type: none}", "order=second", "hessian=finite_difference"],
    "L2": ["regularizer={type: l2, schedule: {type: constant, value: 5e-4}}"],
    "Beta-DARTS": ["regularizer={type: beta, schedule: {type: linear, slope: 0.5}}"],
    "SA-DARTS, eq. 7": ["regularizer={type: sa, nu: 0.25, mu: 1e6, schedule: {type: linear, slope: 0.5}}"],
    "SA-DARTS, eq. 8": [SMOOTH],
    "SNAS": ["regularizer={type: none}", SNAS],
    "SNAS + SA": [SMOOTH, SNAS],
}

# Strength in the first epoch and what it multiplies, written again; eq. 8 is the mean.
EXPECTED: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "L2": (5e-4, lambda alpha: alpha.square().sum()),
    "Beta-DARTS": (0.5, lambda alpha: alpha.view(4, -1).logsumexp(1).mean()),
    "SA-DARTS, eq. 7": (0.5, lambda alpha: torch.where(alpha > 0, alpha, alpha / 4).mean()),
}


def build(*search: str, seed: int = 0) -> Searcher:
    overrides = [f"search:{line}" for line in search]
    options = load_options(SearchOptions, TINY, [*overrides, "search:flops_weight=0", f"manual_seed={seed}"])
    return build_searcher(options, torch.device("cpu"))


def run(search: Searcher, steps: int = 1) -> list[dict[str, float]]:
    losses: list[dict[str, float]] = []
    search.run(losses.append, lambda _: None, lambda: search.step == steps)
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_options_alone_and_moves_alpha(method: str) -> None:
    search = build(*METHODS[method])
    start = torch.cat([logits.detach().clone() for logits in search.alpha.logits.values()])
    (losses,) = run(search)
    moved = torch.cat([logits.detach() for logits in search.alpha.logits.values()])
    assert ((moved - start).abs() > 1e-3).all() and moved.isfinite().all()
    strength, value = EXPECTED.get(method, (0.2 if SMOOTH in METHODS[method] else 0.0, torch.mean))
    assert losses["regularizer"] == pytest.approx(strength * value(start).item(), rel=1e-4, abs=1e-12)


def test_random_sampling_is_a_search_without_steps() -> None:
    first, again, other = (build("epochs=0", "alpha:value=1.0", seed=seed) for seed in (5, 5, 6))
    assert run(first) == [] and first.genotype() == again.genotype()
    spread = torch.cat([logits.detach() for logits in first.alpha.logits.values()]).std()
    assert spread > 0.5
    assert not torch.equal(first.alpha.logits["conv1"], other.alpha.logits["conv1"])


def test_the_starts_of_the_experiments() -> None:
    negative = build("alpha={init: constant, value: -5e-4}")
    assert all((logits == -5e-4).all() for logits in negative.alpha.logits.values())
    unfair = build("alpha={init: constant, value: 0, offset: {dsconv_3x3: 0.1}}", "warmup_epochs=2")
    start = {label: logits.clone() for label, logits in unfair.alpha.logits.items()}
    assert all(logits.tolist() == pytest.approx([0, 0.1, 0]) for logits in start.values())
    assert [set(losses) for losses in run(unfair, steps=2)] == [{"train"}, {"train"}]
    assert all(torch.equal(start[label], logits) for label, logits in unfair.alpha.logits.items())


def test_alpha_has_a_schedule_of_its_own_that_a_resumed_search_goes_on_with() -> None:
    options = ("alpha:scheduler={type: CosineAnnealingLR, eta_min: 0}", "epochs=4", "steps_per_epoch=1")
    first, second, rates = build(*options), build(*options), []
    first.run(lambda _: rates.append(first.alpha_optimizer.param_groups[0]["lr"]), lambda _: None, lambda: first.step == 2)
    second.load_state_dict(first.state_dict())
    second.run(lambda _: rates.append(second.alpha_optimizer.param_groups[0]["lr"]))
    top = build("epochs=4").alpha_optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx([top / 2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])


def test_no_regulariser_has_no_strength() -> None:
    assert build("regularizer={type: none}").record(1)["lambda"] == 0 != build(SMOOTH).record(1)["lambda"]


def test_what_a_search_draws_follows_its_seed() -> None:
    found = [build(SNAS, "regularizer={type: none}", seed=seed).plan.seed for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
