"""Numbers of a supernet that change over the epochs of a search."""

from __future__ import annotations

import dataclasses
import io
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sr_nas.contracts import Weights
from sr_nas.errors import UserError
from sr_nas.genotype import Choice
from sr_nas.runs.run_dir import check_kinds
from sr_nas.search.alpha import Alpha, in_pass, softmax, uniform_path
from sr_nas.search.objective import decay, linear, over, ramp, stages
from sr_nas.search.searcher import Searcher
from sr_nas.search.selection import early_stopping, evolution, random_networks
from tests.search.test_searcher import flat, restarting, run, searcher
from tests.search.toy import ToySpace

FALLING = {"drop_path": over(4, partial(ramp, first=0.8, last=0.0, reached="after_it"))}


class Dropping(ToySpace):
    """Leaves out its output for some samples, and notes with which probability."""

    drop_path = 0.0

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        self.seen.append(self.drop_path)
        return super().forward(x, weights) * (torch.rand(len(x), 1, 1, 1) >= self.drop_path)


def dropping(make: Any = searcher, schedules: Any = FALLING, **changes: Any) -> Searcher:
    search = make(steps_per_epoch=3)
    search.space.__class__, search.space.seen = Dropping, []
    return dataclasses.replace(search, over_epochs=schedules, **changes)


def test_every_step_of_an_epoch_has_its_number_and_the_selection_has_none() -> None:
    numbers = []

    def select(search: Searcher) -> Any:
        return lambda: (numbers.append(search.space.drop_path), (search.genotype(), {}))[1]

    search = dropping(selection=select)
    records = run(search)
    expected = [0.8, 0.6, 0.4, 0.2]
    assert [record["over_epochs"]["drop_path"] for record in records] == pytest.approx(expected)
    assert search.space.seen == pytest.approx([value for value in expected for _ in range(6)])  # an alpha and a weight step each
    assert numbers == [0.0]


@pytest.mark.parametrize("stop", [3, 8])
def test_what_a_supernet_draws_is_drawn_again_after_a_resume(stop: int) -> None:
    straight, first, second = dropping(), dropping(), dropping()
    run(straight), run(first, stop)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    torch.manual_seed(99)
    run(second)
    assert torch.equal(flat(straight), flat(second)) and not torch.equal(flat(straight), flat(first))


def test_a_restart_begins_the_schedule_anew() -> None:
    search = dropping(restarting, {"drop_path": over(2, partial(ramp, first=0.8, last=0.2))})
    assert [record["over_epochs"]["drop_path"] for record in run(search)] == pytest.approx([0.8, 0.2, 0.8, 0.2])


def test_a_number_that_a_supernet_lacks_is_refused() -> None:
    with pytest.raises(UserError, match=r"search\.over_epochs.drop_path: this supernet has no drop_path"):
        dataclasses.replace(searcher(), over_epochs=FALLING)


@pytest.mark.parametrize("schedule", [partial(linear, slope=0.25), over(4, partial(ramp, first=0, last=-0.1))])
def test_a_drop_path_that_is_no_probability_is_refused_before_the_search(schedule: Any) -> None:
    with pytest.raises(UserError, match=r"drop_path is a probability: from 0 to below 1 in every epoch"):
        dropping(schedules={"drop_path": schedule})


def test_networks_of_candidates_that_are_dropped_are_not_drawn() -> None:
    schedules = {"operations_kept": over(4, partial(stages, values=[3, 2]))}
    for selection in (random_networks, evolution, early_stopping):
        with pytest.raises(UserError, match=r"drawn uniformly have candidates that search\.over_epochs\.operations_kept drops"):
            dataclasses.replace(searcher(), over_epochs=schedules, selection=selection)


def test_candidates_of_the_smallest_alpha_are_dropped_for_good() -> None:
    choices = {"a": Choice(tuple("uvwxy")), "in": Choice(tuple("uvw"), 2, "inputs")}
    alpha = Alpha(choices, "constant", 0.0).double()
    alpha.logits["a"].data = torch.tensor([0.1, 3.0, -1.0, 2.0, 0.2]).double()
    alpha.operations_kept = 5
    assert torch.equal(alpha.relax(softmax)["a"], alpha.logits["a"].softmax(0))
    alpha.operations_kept = 3
    weights = alpha.relax(softmax)
    expected = torch.zeros(5).double()
    expected[[1, 3, 4]] = torch.tensor([3.0, 2.0, 0.2]).double().softmax(0)
    torch.testing.assert_close(weights["a"], expected, rtol=0, atol=1e-12)
    assert weights["in"].tolist() == pytest.approx([1 / 3] * 3) and alpha.operations_kept == 3
    (weights["a"] * torch.arange(5.0)).sum().backward()
    assert (alpha.logits["a"].grad != 0).tolist() == [False, True, False, True, True]
    alpha.logits["a"].data[0] = 9.0
    alpha.operations_kept = 5
    assert alpha.relax(softmax)["a"][0] == 0
    other = Alpha(choices).double()
    other.load_state_dict(alpha.state_dict())
    assert torch.equal(other.relax(softmax)["a"], alpha.relax(softmax)["a"])
    alpha.operations_kept = 0
    assert alpha.relax(softmax)["a"].tolist() == [0, 1, 0, 0, 0]
    mask = in_pass(uniform_path, (0,), 0.0)
    assert all(not (alpha.relax(mask)["a"] & ~torch.eye(5, dtype=torch.bool)[1]).any() for _ in range(5))


def test_stages_of_a_search_drop_candidates_and_resume_to_the_bit() -> None:
    """DrNAS in NAS-Bench-201: 5 operations for 50 epochs, then 3 for as many."""
    assert [over(100, partial(stages, values=[5, 3]))(epoch) for epoch in (0, 1, 50, 51, 100, 101)] == [5, 5, 5, 3, 3, 3]
    schedule = {"operations_kept": over(4, partial(stages, values=[3, 2]))}
    straight, first, second = (dataclasses.replace(searcher(steps_per_epoch=3), over_epochs=schedule) for _ in range(3))
    records = run(straight)
    beta = [record["beta"]["one"] for record in records]
    assert [sum(weight > 0 for weight in weights) for weights in beta] == [3, 3, 2, 2]
    assert beta[2][records[1]["beta"]["one"].index(min(records[1]["beta"]["one"]))] == 0
    run(first, 8)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    check_kinds(state, second.state_dict())
    second.load_state_dict(state)
    assert run(second)[-1]["beta"] == records[-1]["beta"] and torch.equal(flat(straight), flat(second))


def test_the_dropout_of_p_darts() -> None:
    """Its public code (train_search.py), epochs e from 0: a line to epoch 10 of 25, then exp(-0.2 (e - 10)) of the first rate."""
    line = [0.4 * (25 - e - 1) / 25 for e in range(10)]
    falling = over(25, partial(decay, first=0.4, rate=0.2, warmup_epochs=10))
    assert [falling(e + 1) for e in range(25)] == pytest.approx(line + [0.4 * math.exp(-(e - 10) * 0.2) for e in range(10, 25)])
    assert [over(0, partial(decay, first=2.0))(epoch) for epoch in (0, 1)] == [2, 2]


def test_ramps_by_hand() -> None:
    """DARTS- (Chu et al.): (E - e) / E for e = 0, 1, ...; R-DARTS (Zela et al.): p e / (E - 1); both as in their public code."""
    minus, drop = partial(ramp, first=1, last=0, reached="after_it"), partial(ramp, first=0, last=0.6)
    assert [over(50, minus)(e + 1) for e in range(50)] == pytest.approx([(50 - e) / 50 for e in range(50)])
    assert [over(50, drop)(e + 1) for e in range(50)] == pytest.approx([0.6 * e / 49 for e in range(50)])
    cosine = over(3, partial(ramp, first=2, last=1, form="cosine"))
    assert [cosine(epoch) for epoch in (0, 1, 2, 3)] == pytest.approx([2, 2, 1.5, 1])
    assert over(1, minus)(1) == 1 and over(1, drop)(1) == 0
    assert over(9, linear)(5) == linear(5) == 1.0
