"""Criteria that end a search, against the rules of their papers; and what a search that is stopped leaves."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from sr_nas.classification.darts_operations import DARTS_OPERATIONS
from sr_nas.classification.darts_space import DARTSSpace
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.search import stopping
from sr_nas.search.alpha import uniform_path
from sr_nas.search.searcher import Searcher
from sr_nas.search.selection import one_shot
from sr_nas.search.stopping import Eigenvalue, SkipsOrRanking, Stop, Verdict, largest_eigenvalue, learnable
from tests.search.test_searcher import flat, go_on, run, searcher
from tests.search.toy import ToySpace, ToyStream


def test_the_largest_eigenvalue_is_that_of_the_whole_hessian() -> None:
    search = searcher(steps_per_epoch=2, alpha_lr=0.5)
    run(search)
    before, position = flat(search), search.validation.state_dict()
    statistics = [buffer.clone() for buffer in search.space.buffers()]
    largest = largest_eigenvalue(search)
    assert torch.equal(before, flat(search)) and search.validation.state_dict() == position
    assert all(map(torch.equal, statistics, search.space.buffers()))
    x, y = batch(2, position["position"])
    state = {name: value.detach().clone() for name, value in search.space.state_dict().items()}

    def loss(logits: torch.Tensor) -> torch.Tensor:
        weights = {"one": logits[:3].softmax(0), "two": logits[3:].softmax(0)}
        return F.mse_loss(functional_call(search.space, state, (x, weights)), y)

    hessian = torch.autograd.functional.hessian(loss, parameters_to_vector(search.alpha.parameters()).detach())
    values = torch.linalg.eigvalsh(hessian)
    assert largest == pytest.approx(values[-1].item(), rel=1e-4) and values[-2] < 0.9 * values[-1]


def batch(seed: int, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    stream = ToyStream(seed)
    stream.load_state_dict({"position": position})
    return stream.next()


def es_of_the_public_code(values: list[float], epochs: int, every: int, start: int = 10) -> tuple[int, int] | None:
    """Epochs, counted from 0, at which RobustDARTS stops and to which it goes back: window 5, delta 4, factor 1.3."""
    seen: list[float] = []
    means: list[float] = []
    for epoch in range(0, epochs, every):
        seen.append(values[epoch])
        if epoch < epochs - 1 and len(seen) >= 3:
            means.append(float(np.mean(seen[-5:])))
            back_to = epoch - every * 2 - every * 4
            if back_to >= start and means[-1] / means[-5] > 1.3:
                return epoch, back_to
    return None


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_that_of_the_public_code_and_alpha_goes_back(every: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    values = (0.1 + random.random(50) + [0, 0.01, 0.03, 0.1, 0.02][seed] * np.arange(50)).tolist()
    search = searcher(epochs=50, steps_per_epoch=1)
    stop = Eigenvalue(search, every=every)
    asked = iter(values[::every])
    monkeypatch.setattr(stopping, "largest_eigenvalue", lambda _: next(asked))
    alphas, ended = [], None
    for epoch in range(50):
        for parameter in search.alpha.parameters():
            parameter.data = torch.from_numpy(random.standard_normal(parameter.shape))
        alphas.append(parameters_to_vector(search.alpha.parameters()).detach())
        search.step = epoch + 1
        numbers, reason = stop(search)
        if epoch % every == 0:
            assert numbers["local_mean"] == pytest.approx(np.mean(values[: epoch + 1 : every][-5:]))
        if reason:
            assert f"alpha is that of epoch {next(i for i, a in enumerate(alphas) if torch.equal(a, now(search))) + 1}" in reason
            ended = epoch, next(i for i, a in enumerate(alphas) if torch.equal(a, now(search)))
            break
    assert ended == es_of_the_public_code(values, 50, every)
    assert (ended is None) == (seed == 4)


def now(search: Searcher) -> torch.Tensor:
    return parameters_to_vector(search.alpha.parameters()).detach()


def test_learnable_candidates_have_parameters() -> None:
    with torch.device("meta"):
        space = DARTSSpace(channels=4, num_cells=3, edge_normalization=True)
    random = torch.get_rng_state()
    places = learnable(space)
    assert torch.equal(random, torch.get_rng_state())
    convolutions = [index for index, name in enumerate(DARTS_OPERATIONS) if "conv_" in name]
    skip = DARTS_OPERATIONS.index("skip_connect")
    expected = {"reduce2<-0": sorted([*convolutions, skip]), "normal2<-0": convolutions, "normal2_edges": []}
    assert {label: places[list(space.choices()).index(label)] for label in expected} == expected
    assert learnable(ToySpace()) == [[0, 1, 2], [0, 1]]


def test_a_ranking_that_stays_stops_the_search_after_the_warm_up() -> None:
    search = searcher(epochs=9, steps_per_epoch=1, warmup_epochs=3)
    stop = SkipsOrRanking(search, patience=2)
    rows = [[0.0, 1, 2, 0, 1]] * 4 + [[0, 2, 1, 0, 1], [0, 2, 1, 1, 0], [0, 3, 2, 5, 4], [1, 3, 2, 5, 4.5]]
    unchanged = []
    for epoch, row in enumerate(rows):
        for parameter, part in zip(search.alpha.parameters(), (row[:3], row[3:]), strict=True):
            parameter.data = torch.tensor(part, dtype=torch.float64)
        search.step = epoch + 1
        numbers, reason = stop(search)
        unchanged.append(numbers["epochs_of_one_ranking"])
        assert bool(reason) == (epoch == len(rows) - 1)
    assert unchanged == [0, 0, 0, 0, 0, 0, 1, 2]
    assert "the ranking of alpha is that of 2 epochs before" in reason


@pytest.mark.parametrize(("cells", "expected"), [("normal", 1), ("", 3)])
def test_skip_connections_of_the_named_cells_count(cells: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    picks = (("normal2", ("skip_connect~0", "sep_conv_3x3~1")), ("reduce2", ("skip_connect~0", "skip_connect~1")))
    search = searcher(steps_per_epoch=1)
    monkeypatch.setattr(search, "genotype", lambda: Genotype("DARTS", picks))
    stop = SkipsOrRanking(search, skips=2, first_epoch=2, cells=cells)
    search.step = 1
    assert stop(search) == ({"skip_connections": expected, "epochs_of_one_ranking": 0}, "")
    search.step = 2
    numbers, reason = stop(search)
    assert numbers["skip_connections"] == expected and reason == ("3 skip connections" if expected == 3 else "")


class After(Stop):
    """Stops after an epoch and sets alpha to that of the first."""

    def __init__(self, searcher: Searcher, last: int) -> None:
        super().__init__(searcher)
        self.last = last

    def judge(self, searcher: Searcher, epoch: int) -> Verdict:
        if epoch < self.last:
            return {"number": float(epoch)}, ""
        torch.nn.utils.vector_to_parameters(self.alphas[0].clone(), searcher.alpha.parameters())
        return {"number": float(epoch)}, "enough"


def stopping_search(last: int = 3, **changes: Any) -> Searcher:
    return dataclasses.replace(searcher(steps_per_epoch=3), stopping=partial(After, last=last), **changes)


def test_a_search_is_what_it_is_without_the_criterion_until_it_stops() -> None:
    whole, search = searcher(steps_per_epoch=3), stopping_search()
    expected, records = run(whole), run(search)
    assert len(records) == 3 and search.step == search.steps == 9 and search.run()
    for record, other in zip(records, expected[:2], strict=False):
        assert {**record, "seconds": 0} == {**other, "seconds": 0, "stop": record["stop"]}
    last = records[-1]
    assert last["stopped"] == "enough" and last["loss"] == expected[2]["loss"]
    assert last["alpha"] == records[0]["alpha"] and last["genotype"] == records[0]["genotype"]
    assert [record["stop"]["number"] for record in records] == [1, 2, 3]


def test_the_last_epoch_is_no_early_end() -> None:
    search = stopping_search(last=4)
    records = run(search)
    assert len(records) == 4 and "stopped" not in records[-1] and not search.stopped and search.step == search.steps == 12


def test_the_network_is_selected_when_the_search_is_stopped() -> None:
    records = run(stopping_search(selection=partial(one_shot, networks=3, batches=1)))
    assert ["selection" in record for record in records] == [False, False, True]


@pytest.mark.parametrize("at", [4, 6, 9])
def test_a_search_that_stops_resumes_to_the_bit(at: int) -> None:
    straight, first, second = stopping_search(), stopping_search(), stopping_search()
    expected, records = run(straight), run(first, at)
    go_on(first, second)
    records += run(second)
    for record in (*expected, *records):
        del record["seconds"]
    assert records == expected and torch.equal(flat(straight), flat(second))
    assert second.run() and second.steps == 9
    assert torch.equal(straight.stop.alphas, second.stop.alphas) and not math.isnan(float(second.stop.alphas.sum()))


def test_without_an_alpha_that_learns_there_is_nothing_to_follow() -> None:
    with pytest.raises(UserError, match=r"search\.stop follows alpha"):
        dataclasses.replace(searcher(relaxation=uniform_path), stopping=SkipsOrRanking)


def test_skip_connections_of_cells_that_there_are_not_are_refused() -> None:
    with pytest.raises(UserError, match=r"search\.stop\.cells: no label of the genotype begins with 'nomral'"):
        SkipsOrRanking(searcher(), cells="nomral")


def test_an_alpha_that_moves_nothing_has_an_eigenvalue_of_0() -> None:
    search = searcher()
    search.alpha.operations_kept = 1
    assert largest_eigenvalue(search) == 0.0
    stop = Eigenvalue(search, every=1, window=2, back=1, first_epoch=0)
    for epoch in range(4):
        search.step = (epoch + 1) * search.plan.steps_per_epoch
        assert stop(search)[1] == ""


def test_an_eigenvalue_takes_no_random_numbers_from_the_search() -> None:
    search = searcher()
    plain = search.space.forward
    search.space.forward = lambda x, weights: plain(x, weights) + 0.01 * torch.randn_like(x)  # as the candidate noise
    state = torch.get_rng_state()
    assert largest_eigenvalue(search) > 0 and torch.equal(state, torch.get_rng_state())
