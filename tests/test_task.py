"""Each method is a choice of relaxation, regulariser, mixing and schedule, and an option file says all of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sr_nas.classification.darts_operations import DARTS_OPERATIONS
from sr_nas.classification.darts_space import edge_choices
from sr_nas.errors import UserError
from sr_nas.options.load import dump_options, load_options
from sr_nas.options.sections import SearchOptions
from sr_nas.search.searcher import Searcher
from sr_nas.task import build_searcher, find_task, search_options, with_candidates_kept
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "tests" / "jobs" / "tiny.yml"
NASBENCH201 = REPOSITORY / "options" / "nasbench201" / "darts.yml"
STAGE_1, STAGE_2 = (REPOSITORY / "options" / "darts" / f"pdarts_{number}.yml" for number in (1, 2))
NODES = ("network_g:nodes=2", "network_g:multiplier=2")
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


def earlier_search(folder: Path, seed: int = 0) -> dict[str, list[float]]:
    """Write what a finished search of two nodes leaves of itself; return its last beta."""
    options = load_options(search_options, STAGE_1, NODES, check_files=False)
    random, labels = np.random.default_rng(seed), edge_choices(None, 2)
    betas = [{label: random.dirichlet(np.ones(8)).tolist() for label in labels} for _ in range(2)]
    record = {"step": 1, "seconds": 1.0, "loss": {}, "genotype": {"arch": "DARTS", "genotype": {}}}
    lines = [json.dumps({"epoch": epoch, "alpha": beta, "beta": beta, **record}) for epoch, beta in enumerate(betas)]
    (folder / "options.yml").write_text(dump_options(options))
    (folder / "history.jsonl").write_text("\n".join([*lines, ""]))
    (folder / "genotype.json").write_text("{}")
    return betas[-1]


def narrowed(folder: Path, *overrides: str, file: Path = STAGE_2) -> Any:
    source = f"search:candidates_from={{run: {folder}, operations: 5}}"
    return with_candidates_kept(load_options(search_options, file, [source, *overrides], check_files=False))


def test_a_stage_of_p_darts_has_the_candidates_that_the_one_before_prefers(tmp_path: Path) -> None:
    beta = earlier_search(tmp_path)
    options = narrowed(tmp_path, *NODES)
    candidates = options.network_g.candidates
    for label, names in candidates.items():
        dropped = [name for name, weight in zip(DARTS_OPERATIONS, beta[label], strict=True) if weight < sorted(beta[label])[3]]
        assert names == [name for name in DARTS_OPERATIONS if name not in dropped] and len(names) == 5
    assert set(candidates) == set(beta)
    with torch.device("meta"):
        space = find_task("classification").space(options)
    assert {label: list(choice.candidates) for label, choice in space.choices().items()} == candidates
    # The options of its run folder say both, and are as good.
    assert with_candidates_kept(options) == options
    (tmp_path / "again.yml").write_text(dump_options(options))
    assert load_options(search_options, tmp_path / "again.yml", check_files=False) == options
    without = load_options(search_options, STAGE_1, check_files=False)
    assert with_candidates_kept(without) is without


def test_candidates_of_a_search_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    earlier_search(tmp_path)
    where = f"search.candidates_from: the candidates of {tmp_path} do not fit this supernet: network_g"
    for file, overrides, words in (
        (STAGE_2, ["network_g:nodes=3", NODES[1]], f"{where}: candidates names no operations for normal4<-0"),
        (NASBENCH201, [], f"{where}.candidates: a list is expected"),
        (STAGE_2, [*NODES, "network_g:candidates=[none, noise]"], "network_g.candidates: search.candidates_from says which"),
    ):
        with pytest.raises(UserError) as caught:
            narrowed(tmp_path, *overrides, file=file)
        assert str(caught.value).startswith(words) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^search\.candidates_from: operations is 9, and .* chose from 8\.$"):
        narrowed(tmp_path, *NODES, "search:candidates_from:operations=9")
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(UserError, match=r"^search\.candidates_from: .* has lost its history\.jsonl"):
        narrowed(tmp_path, *NODES)
    (tmp_path / "genotype.json").unlink()
    with pytest.raises(UserError, match=r"has no genotype\.json: is its search finished\?"):
        narrowed(tmp_path, *NODES)
    missing = f"search:candidates_from:run={tmp_path / 'gone'}"
    with pytest.raises(UserError, match=r"search\.candidates_from\.run: folder '.*gone' does not exist"):
        load_options(search_options, STAGE_2, [missing])
