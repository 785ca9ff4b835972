from __future__ import annotations

import copy
import dataclasses
import io
import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sr_nas.errors import UserError
from sr_nas.report.progress import decision
from sr_nas.runs.run_dir import check_kinds
from sr_nas.search.alpha import Alpha, dirichlet, gumbel_softmax, softmax
from sr_nas.search.objective import Objective, none, sa
from sr_nas.search.perturbation import adversarial
from sr_nas.search.searcher import Plan, Searcher
from tests.search.toy import ToySpace, ToyStream

TABLE = {"one": torch.tensor([1.0, 9.0, 25.0], dtype=torch.float64), "two": torch.tensor([1.0, 9.0], dtype=torch.float64)}


def searcher(
    flops_weight: float | None = None,
    regularizer: Any = none,
    lr: float = 0.02,
    alpha_lr: float = 0.05,
    relaxation: Any = softmax,
    perturbation: Any = None,
    **plan: Any,
) -> Searcher:
    torch.manual_seed(0)
    space = ToySpace().double()
    alpha = Alpha(space.choices(), generator=torch.Generator().manual_seed(1)).double()
    optimizer = torch.optim.Adam(space.parameters(), lr=lr)
    return Searcher(
        space,
        alpha,
        relaxation,
        Objective(
            F.mse_loss,
            regularizer,
            lambda epoch: 0.2 * epoch,
            space.choices(),
            {} if flops_weight is None else {"flops": (flops_weight, TABLE)},
        ),
        ToyStream(1),
        ToyStream(2),
        optimizer,
        torch.optim.Adam(alpha.parameters(), lr=alpha_lr, betas=(0.5, 0.999)),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4),
        Plan(**({"epochs": 4, "steps_per_epoch": 10} | plan)),
        perturbation=perturbation,
    )


def beginning(number: int) -> tuple[Any, Any]:
    torch.manual_seed(100 + number)
    space = ToySpace().double()
    generator = torch.Generator().manual_seed(200 + number)
    return space.state_dict(), Alpha(space.choices(), generator=generator).double().state_dict()


def restarting(restarts: int = 2, **plan: Any) -> Searcher:
    search = searcher(0.1, sa, restarts=restarts, **plan)
    return dataclasses.replace(search, beginning=beginning)


def run(search: Searcher, steps: int | None = None) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    search.run(lambda _: None, records.append, lambda: search.step == steps)
    return records


def go_on(first: Searcher, second: Searcher) -> None:
    """Give a new search the state of another, by a file and with the checks of a run that resumes."""
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    check_kinds(state, second.state_dict())  # as a run does that resumes
    second.load_state_dict(state)


def flat(search: Searcher) -> torch.Tensor:
    return torch.cat(
        [*(p.detach().flatten() for p in search.space.parameters()), *(a.detach() for a in search.alpha.logits.values())]
    )


SAMPLING = {"second_order": True, "finite_difference": True, "relaxation": gumbel_softmax, "seed": 3}
OTHERS: list[dict[str, Any]] = [
    {"relaxation": partial(gumbel_softmax, hard=True), "seed": 3},
    {"relaxation": dirichlet, "seed": 3},
    {"relaxation": gumbel_softmax, "single_level": True},
    {"perturbation": partial(adversarial, steps=1), "seed": 3},
]


RESUMED = [*itertools.product((3, 10, 27), ({}, {"second_order": True})), *itertools.product([13], [SAMPLING, *OTHERS])]


@pytest.mark.parametrize(("stop", "order"), RESUMED)
def test_stop_and_resume_is_the_straight_run_to_the_bit(stop: int, order: dict[str, Any]) -> None:
    straight = searcher(0.1, sa, **order)
    expected = run(straight)
    first = searcher(0.1, sa, **order)
    records = run(first, stop)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = searcher(0.1, sa, **order)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    records += run(second)
    assert torch.equal(flat(straight), flat(second))
    without_time = [[{k: v for k, v in record.items() if k != "seconds"} for record in some] for some in (expected, records)]
    assert without_time[0] == without_time[1]


@pytest.mark.parametrize("stop", [3, 20, 27, 40])
def test_a_search_with_restarts_resumes_to_the_bit(stop: int) -> None:
    straight, first, second = restarting(), restarting(), restarting()
    expected, records = run(straight), run(first, stop)
    go_on(first, second)
    records += run(second)
    assert torch.equal(flat(straight), flat(second)) and len(records) == 4
    assert [record["beta"] for record in expected] == [record["beta"] for record in records]


def test_a_restart_is_a_search_of_its_own_and_beta_the_geometric_mean() -> None:
    whole, alone = restarting(warmup_epochs=1), searcher(0.1, sa, epochs=2, warmup_epochs=1)
    records = run(whole)
    ends = [searcher(0.1, sa, epochs=2, warmup_epochs=1), alone]
    for module, state in zip((alone.space, alone.alpha), beginning(1), strict=True):
        module.load_state_dict(state)
    for stream, batches in ((alone.training, 20), (alone.validation, 10)):  # where the first of the two restarts left them
        for _ in range(batches):
            stream.next()
    own = [run(each) for each in ends]
    assert torch.equal(flat(whole), flat(alone))
    for label in ("one", "two"):
        weights = torch.tensor([each[-1]["beta"][label] for each in own], dtype=torch.float64)
        mean = weights.prod(dim=0) ** 0.5
        assert records[-1]["beta"][label] == pytest.approx((mean / mean.sum()).tolist(), abs=1e-12)
    assert [record["lambda"] for record in records] == pytest.approx([0.2, 0.4, 0.2, 0.4])
    assert ["task" in record["loss"] for record in records] == [False, True, False, True]
    assert [record["loss"] for record in records] == [record["loss"] for each in own for record in each]


def test_a_weight_of_0_is_no_cost() -> None:
    costly, free = searcher(0.0), searcher(None)
    run(costly), run(free)
    assert torch.equal(flat(costly), flat(free))


def test_a_larger_weight_gives_cheaper_networks() -> None:
    costs = []
    for weight in (0.0, 0.5, 50.0):
        search = searcher(weight, epochs=8)
        run(search)
        picked = search.genotype()
        costs.append(
            sum(TABLE[label][search.space.choices()[label].candidates.index(picked[label][0])].item() for label in TABLE)
        )
        last = search.record(1)
    assert costs == sorted(costs, reverse=True) and costs[-1] == 2.0 < costs[0]
    assert last["expected_cost"]["flops"] < 0.9 * sum(costs.mean().item() for costs in TABLE.values())


def test_warm_up_leaves_alpha_alone() -> None:
    search = searcher(warmup_epochs=2)
    start = copy.deepcopy(search.alpha.state_dict())
    records = run(search, 20)
    assert all(torch.equal(start[name], value) for name, value in search.alpha.state_dict().items())
    assert set(records[0]["loss"]) == {"train"}
    assert "task" in run(search)[0]["loss"]
    assert not torch.equal(start["logits.one"], search.alpha.logits["one"])


def test_the_mean_losses_of_an_epoch_are_means() -> None:
    search, losses = searcher(epochs=1), []
    records: list[dict[str, Any]] = []
    search.run(losses.append, records.append)
    for name, mean in records[0]["loss"].items():
        assert mean == pytest.approx(sum(step[name] for step in losses) / 10)


def test_alpha_moves_and_learns_the_task() -> None:
    """The target is a shifted copy of the input: a 1x1 convolution in both layers cannot make it."""
    search = searcher(epochs=10, steps_per_epoch=20)
    history = [search.record(0), *run(search)]
    assert history[-1]["loss"]["train"] < 0.5 * history[1]["loss"]["train"]
    found = decision(history, search.space.choices())
    assert found.initial_spread < 2e-3 and found.final_spread > 50 * found.initial_spread
    assert not (search.genotype()["one"] == ("small",) and search.genotype()["two"] == ("small",))


def test_the_learning_rate_of_the_weights_follows_the_schedule_over_the_epochs() -> None:
    search, rates = searcher(), []
    search.run(lambda _: rates.append(search.weight_optimizer.param_groups[0]["lr"]), lambda _: None)
    cosine = [0.01 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(10)]
    assert rates == pytest.approx(cosine)


def test_the_weights_take_the_batch_that_alpha_looked_ahead_on() -> None:
    search, batches = searcher(second_order=True, epochs=1), []
    search.space.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
    run(search)
    # In each step the supernet runs on the look-ahead's batch, on alpha's and on that of the weights.
    ahead, validation, weights = (batches[place::3] for place in range(3))
    assert len(batches) == 30 and all(torch.equal(*pair) for pair in zip(ahead, weights, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(ahead, validation, strict=True))


def test_gradient_clipping_bounds_the_step() -> None:
    search = searcher(grad_clip_norm=1e-3)
    search.weight_step(search.training.next())
    norm = torch.stack([p.grad.norm() for p in search.space.parameters() if p.grad is not None]).norm()
    assert norm <= 1e-3 * (1 + 1e-6)


def test_a_diverging_loss_is_reported() -> None:
    search = searcher(lr=1e200)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+\. Lower"):
        run(search)


def test_losses_read_late_are_the_same_and_those_of_a_state_are_complete() -> None:
    at_once, late, seen = searcher(0.1, sa), searcher(0.1, sa), []
    late.read_every = 7
    expected = run(at_once, 25)
    records: list[dict[str, Any]] = []
    late.run(
        lambda losses: seen.append(dict(losses.items()) if late.step % 9 == 0 else {}), records.append, lambda: late.step == 25
    )
    for record in (*expected, *records):
        del record["seconds"]
    assert records == expected
    assert late.sums == {} != at_once.sums  # step 25 is the fifth of its epoch: not read yet
    assert late.state_dict()["sums"] == at_once.state_dict()["sums"]
    assert torch.equal(flat(at_once), flat(late))
    assert set(seen[8]) == {"task", "regularizer", "cost", "total", "train"}


@pytest.mark.parametrize("read_every", [1, 4, 100])
def test_a_loss_that_is_not_finite_is_noticed_before_a_state_and_with_its_own_step(read_every: int) -> None:
    search, states = searcher(), []
    search.read_every = read_every
    task = search.objective.task
    calls = 0

    def failing(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return task(output, target) * (float("nan") if calls == 2 * 13 else 1.0)  # two passes a step: the weights of step 13

    search.objective = dataclasses.replace(search.objective, task=failing)

    def save_at_15() -> bool:
        if search.step == 15:
            states.append(search.state_dict())
        return False

    with pytest.raises(UserError, match="the train loss is nan at step 13"):
        search.run(lambda _: None, lambda _: None, save_at_15)
    assert states == [] and 13 <= search.step <= 15


def test_second_order_with_xi_0_is_first_order_to_the_bit() -> None:
    first, second = searcher(0.1, sa), searcher(0.1, sa, second_order=True, xi=0.0)
    assert [record["loss"] for record in run(first)] == [record["loss"] for record in run(second)]
    assert torch.equal(flat(first), flat(second))


def test_finite_differences_search_as_the_exact_second_order_does() -> None:
    exact, differences, first = (
        searcher(0.1, sa, epochs=1, second_order=order, xi=0.5, finite_difference=way)
        for order, way in ((1, False), (1, True), (0, False))
    )
    for search in (exact, differences, first):
        run(search)
    assert (flat(differences) - flat(exact)).norm() < 0.02 * (flat(first) - flat(exact)).norm()


def test_a_relaxation_that_samples_draws_once_per_pass_and_never_for_records() -> None:
    seen: list[tuple[str, float]] = []

    def spy(logits: torch.Tensor, draw: Any = None) -> torch.Tensor:
        seen.append(("none", -1.0) if draw is None else (str(draw.gumbel(logits)), draw.progress))
        return softmax(logits)

    search = searcher(relaxation=spy, epochs=2, steps_per_epoch=1)
    seen.clear()  # what was asked for when the search was built
    run(search)
    drawn = [entry for entry in seen if entry[0] != "none"]
    assert len(set(drawn)) == len(drawn) == 2 * 2 * len(TABLE)  # epochs, passes, choices
    assert [progress for _, progress in drawn] == 4 * [0.0] + 4 * [0.5]
    assert len(seen) - len(drawn) == 2 * 2 * len(TABLE)  # a record and its genotype per epoch


def test_a_single_level_moves_alpha_and_weights_by_the_gradients_of_one_loss_at_one_point() -> None:
    search, by_hand = searcher(0.1, sa, single_level=True), searcher(0.1, sa)
    losses = search.take_step()
    x, y = by_hand.training.next()
    weights = by_hand.alpha.relax(softmax)
    task = F.mse_loss(by_hand.space(x, weights), y)
    total, _ = by_hand.objective(task, by_hand.alpha.by_label(), weights, 1)
    total.backward()
    by_hand.weight_optimizer.step()
    by_hand.alpha_optimizer.step()
    assert torch.equal(flat(search), flat(by_hand))
    assert losses["train"].item() == losses["task"].item() == task.item() and losses["total"].item() == total.item()
    assert search.validation.state_dict() == {"position": 0}


def test_in_the_warm_up_of_a_single_level_only_weights_move() -> None:
    search = searcher(single_level=True, warmup_epochs=1, epochs=2)
    start = copy.deepcopy(search.alpha.state_dict())
    records = []
    search.run(on_epoch=records.append, between_steps=lambda: search.step == 10)
    assert all(torch.equal(start[name], value) for name, value in search.alpha.state_dict().items())
    assert list(records[0]["loss"]) == ["train"]


def test_a_step_of_the_weights_runs_the_drawn_candidates_alone() -> None:
    search, ran = searcher(relaxation=partial(gumbel_softmax, hard=True)), []
    for op in (op for ops in search.space.ops.values() for op in ops):
        op.register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    search.take_step()
    assert len(ran) == 5 + 2  # all in the step of alpha, one of each of the two choices in that of the weights


def test_a_perturbation_is_of_the_step_of_the_weights_alone() -> None:
    seen: list[Any] = []

    def spy(weights: Any, loss: Any, draw: Any) -> Any:
        moved = {label: weight.flip(0) for label, weight in weights.items()}
        seen.append((loss(weights).item(), loss(moved).item(), draw.progress))
        return moved

    search, plain = searcher(perturbation=spy), searcher()
    losses, others = search.take_step(), plain.take_step()
    moved = torch.cat(list(search.alpha.logits.values())), torch.cat(list(plain.alpha.logits.values()))
    assert torch.equal(*moved) and losses["task"] == others["task"]
    assert seen == [(others["train"].item(), losses["train"].item(), 0.0)] and losses["train"] != others["train"]


def test_a_perturbation_needs_weights_to_change() -> None:
    with pytest.raises(UserError, match=r"^search\.perturbation changes weights"):
        searcher(perturbation=adversarial, relaxation=partial(gumbel_softmax, hard=True))


def test_a_search_without_steps_keeps_its_start() -> None:
    search = searcher(epochs=0, relaxation=gumbel_softmax)
    start = search.record(0)
    search.alpha_gradient(ToyStream(2).next(), ToyStream(1).next())  # as the estimate of memory does before the first step
    assert run(search) == [] and search.genotype().to_json() == start["genotype"]


@pytest.mark.parametrize("step", [None, [1], -5, 1.5, True, "3"])
def test_a_step_that_is_no_number_is_refused_before_the_history_is_cut(step: Any) -> None:
    search = searcher()
    with pytest.raises(ValueError, match="is no number of steps"):
        search.load_state_dict(search.state_dict() | {"step": step})
