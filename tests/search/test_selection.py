"""Selections, on a space in which the loss and the cost of every network are known; and what a search makes of them."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn
from torch.nn import functional as F

from sr_nas.classification.darts_space import DARTSSpace
from sr_nas.contracts import Weights, keep_strongest
from sr_nas.errors import UserError
from sr_nas.genotype import Choice, Genotype
from sr_nas.optim import sgd
from sr_nas.search import selection as module
from sr_nas.search.alpha import Alpha, softmax, uniform_path
from sr_nas.search.budget import USED, Cost, decode
from sr_nas.search.objective import Objective, none
from sr_nas.search.searcher import Plan, Searcher, argmax
from sr_nas.search.selection import Removals, Scores, early_stopping, evolution, one_shot, perturbation, random_networks
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.task import network_costs
from tests.search.test_searcher import flat, run
from tests.search.test_searcher import searcher as toy_search
from tests.search.toy import ToyStream

LABELS = ("a", "b", "c", "d")


class Line(nn.Module):
    """Output = input times worth times a factor, which is learnt from 1."""

    def __init__(self, worth: float) -> None:
        super().__init__()
        self.worth, self.factor = worth, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.worth * x


class Known(nn.Module):
    """Output = input times the sum of what the candidates are worth, each in its label: a square loss has one best network."""

    arch = "Known"

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.size = size
        random = np.random.default_rng(1)
        self.worth = {label: torch.from_numpy(random.random(size)) for label in LABELS}
        self.cost = {label: torch.from_numpy(random.integers(1, 9, size).astype(float)) for label in LABELS}
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.runs, self.ran = 0, set[Genotype]()

    def choices(self) -> dict[str, Choice]:
        return {label: Choice(tuple(f"op{number}" for number in range(self.size))) for label in LABELS}

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        self.runs += 1
        if weights["a"].dtype == torch.bool:
            self.ran.add(self.decode(weights))
        return self.factor * x * torch.stack([self.worth[label] @ weights[label].double() for label in LABELS]).sum()

    def derive(self, genotype: Genotype) -> nn.Module:
        return Line(sum(float(self.worth[label][int(name[2:])]) for label, (name,) in genotype.picks))

    def decode(self, weights: Weights) -> Genotype:
        return keep_strongest(self.arch, self.choices(), weights)

    def all(self) -> dict[Genotype, tuple[float, float]]:
        """Genotype -> worth and cost of every network."""
        networks = {}
        for picks in itertools.product(range(self.size), repeat=len(LABELS)):
            pairs = list(zip(LABELS, picks, strict=True))
            genotype = Genotype(self.arch, tuple((label, (f"op{pick}",)) for label, pick in pairs))
            worth = sum(float(self.worth[label][pick]) for label, pick in pairs)
            networks[genotype] = (worth, sum(float(self.cost[label][pick]) for label, pick in pairs))
        return networks


def search(selection: Any, limit: float = 20.0, seed: int = 0, relaxation: Any = softmax, size: int = 4) -> Searcher:
    space = Known(size)
    alpha = Alpha(space.choices(), "normal", 0.1, generator=torch.Generator().manual_seed(seed)).double()
    weights = torch.optim.SGD(space.parameters(), lr=0.0)
    return Searcher(
        space,
        alpha,
        relaxation,
        Objective(lambda output, target: output.square().mean(), none, lambda _: 0.0, space.choices()),
        ToyStream(1),
        ToyStream(2),
        weights,
        torch.optim.SGD(alpha.parameters(), lr=0.0),
        torch.optim.lr_scheduler.ConstantLR(weights, 1.0),
        Plan(epochs=1, steps_per_epoch=1, seed=seed),
        {"macs": Cost(0.0, space.cost, limit)},
        selection,
    )


@pytest.mark.parametrize("limit", [15.0, 20.0, 100.0])
@pytest.mark.parametrize("selection", [one_shot, random_networks])
def test_of_all_networks_of_the_band_the_one_of_the_least_loss_is_selected(selection: Any, limit: float) -> None:
    found = search(partial(selection, networks=300, batches=2), limit)
    (record,) = run(found)
    networks = found.space.all()
    least = USED * limit if limit < 100 else 0.0
    band = {genotype: worth for genotype, (worth, cost) in networks.items() if least <= cost <= limit}
    assert len(band) > 3
    assert record["genotype"] == min(band, key=band.__getitem__).to_json()
    scale = np.mean([found.next_batch(stream)[0].square().mean().item() for stream in [ToyStream(2)] for _ in range(3)][1:])
    assert record["selection"]["best"] == pytest.approx(scale * min(band.values()) ** 2)
    argmax_outside = selection is one_shot and found.genotype() not in band
    assert record["selection"]["scored"] == len(band) + argmax_outside
    assert record["selection"]["median"] > record["selection"]["best"]


@pytest.mark.long
def test_evolution_beats_as_many_random_networks_and_keeps_to_the_budget() -> None:
    networks, ranks = Known(8).all(), {}
    band = sorted(worth for worth, cost in networks.values() if USED * 20 <= cost <= 20)
    for name, selection in (
        ("random", partial(random_networks, networks=40)),
        ("evolution", partial(evolution, population=10, tournament=4, cycles=40)),
    ):
        ranks[name] = []
        for seed in range(5):
            found = search(selection, 20.0, seed, size=8)
            (record,) = run(found)
            assert all(USED * 20 <= networks[genotype][1] <= 20 for genotype in found.space.ran)
            ranks[name].append(band.index(networks[Genotype.from_json(record["genotype"])][0]))
            assert record["selection"]["scored"] <= 50
    assert np.mean(ranks["evolution"]) < 0.5 * np.mean(ranks["random"])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, SOAP])
def test_early_stopping_trains_every_network_alone_on_the_same_batches(kind: Any) -> None:
    found = search(partial(early_stopping, networks=100, steps=3, batches=2))
    found.weight_optimizer = kind([{"params": found.space.parameters(), "initial_lr": 0.02}], lr=1e-9, weight_decay=0.5)
    found.weight_optimizer.param_groups[0]["step"] = 9  # as SOAP counts
    found.plan = dataclasses.replace(found.plan, grad_clip_norm=0.3)
    found.training.next()
    networks = found.space.all()
    band = {genotype: worth for genotype, (worth, cost) in networks.items() if USED * 20 <= cost <= 20}
    genotype, numbers = found.select()
    losses = {}
    for other, worth in band.items():
        training, validation, line = ToyStream(1), ToyStream(2), Line(worth)
        training.next()
        optimizer = kind(line.parameters(), lr=0.02, weight_decay=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            line(training.next()[0]).square().mean().backward()
            nn.utils.clip_grad_norm_(line.parameters(), 0.3)
            optimizer.step()
        losses[other] = sum(line(validation.next()[0]).square().mean().item() for _ in range(2)) / 2
    assert genotype == min(losses, key=losses.__getitem__) and numbers["scored"] == len(band)
    assert numbers["best"] == pytest.approx(min(losses.values()), rel=1e-9)
    assert numbers["median"] == pytest.approx(np.median(list(losses.values())), rel=1e-9)


def test_where_no_network_uses_the_budget_the_dearest_ones_are_compared() -> None:
    networks = Known().all()
    least = min(cost for _, cost in networks.values())
    limit = least + 0.9
    assert least < USED * limit
    (record,) = run(search(partial(random_networks, networks=100), limit))
    cheapest = [genotype for genotype, (_, cost) in networks.items() if cost == least]
    assert record["selection"]["scored"] == len(cheapest) and Genotype.from_json(record["genotype"]) in cheapest


def test_one_shot_draws_by_beta() -> None:
    found = search(partial(one_shot, networks=30), 100.0)
    with torch.no_grad():
        found.alpha.logits["a"][2] += 50.0
        found.alpha.logits["b"][3] += 50.0
    (record,) = run(found)
    networks = {genotype: worth for genotype, (worth, _) in found.space.all().items()}
    likely = [genotype for genotype in networks if (genotype["a"], genotype["b"]) == (("op2",), ("op3",))]
    assert record["genotype"] == min(likely, key=networks.__getitem__).to_json() and record["selection"]["scored"] == 16


def test_the_argmax_is_selected_by_default_and_no_pass_is_added() -> None:
    for selection in ({}, {"selection": argmax}):
        found = search(**selection) if selection else search(argmax)
        (record,) = run(found)
        weights = found.alpha.relax(softmax)
        assert record["genotype"] == decode(found.space, weights, list(found.budgets.values())).to_json()
        assert "selection" not in record and found.space.runs == 2


def test_paths_leave_alpha_and_the_validation_stream_alone_and_run_once_a_step() -> None:
    found = search(partial(random_networks, networks=10, batches=3), relaxation=uniform_path)
    start = [logits.clone() for logits in found.alpha.parameters()]
    (record,) = run(found)
    assert all(torch.equal(*pair) for pair in zip(start, found.alpha.parameters(), strict=True))
    assert set(record["loss"]) == {"train"} and found.space.runs == 1 + 10 * 3 and found.validation.state_dict()["position"] == 3


def test_weights_that_no_pass_has_run_yet_have_no_momentum() -> None:
    weights = []
    for momentum in (partial(sgd, momentum=0.9), partial(torch.optim.SGD, momentum=0.9)):
        found = toy_search(relaxation=uniform_path)
        optimizer = momentum(found.space.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        found = dataclasses.replace(found, weight_optimizer=optimizer, scheduler=schedule)
        run(found)
        weights.append(flat(found))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("criterion", "sign"), [("loss", 1), ("size", -1)])
def test_what_the_supernet_misses_most_is_kept(criterion: str, sign: int) -> None:
    """The output is a sum over all candidates: removing one takes weight times worth from it, whatever else is decided."""
    space = Known()
    alpha = Alpha(space.choices(), "normal", 0.1, generator=torch.Generator().manual_seed(0)).double()
    metrics = {"size": lambda output, target: output.mean()}
    found = searcher_of(space, alpha, partial(perturbation, criterion=criterion, batches=2), metrics)
    (record,) = run(found)
    share = {label: found.beta()[label] * found.space.worth[label] for label in LABELS}
    kept = {label: int((sign * values).argmin()) for label, values in share.items()}
    assert record["genotype"]["genotype"] == {label: f"op{index}" for label, index in kept.items()}
    stream = ToyStream(2)
    stream.next()
    x = torch.stack([stream.next()[0] for _ in range(2)])
    total = sum(found.space.worth[label][index] for label, index in kept.items())
    expected = {"loss": (total * x).square().mean(), "size": (total * x).mean()}[criterion]
    assert record["selection"] == {"removals": 16, criterion: pytest.approx(float(expected))}
    assert len(set(kept.values())) > 1 and kept != {label: int((-sign * values).argmin()) for label, values in share.items()}


def test_what_the_search_has_dropped_is_not_kept() -> None:
    """With a loss of which every candidate has a part, all removals but those of dropped candidates lower it."""
    space = Known()
    alpha = Alpha(space.choices(), "normal", 0.1, generator=torch.Generator().manual_seed(0)).double()
    alpha.operations_kept = 2
    found = searcher_of(space, alpha, partial(perturbation, batches=1))
    genotype, numbers = found.select()
    kept = {label: int(genotype[label][0].removeprefix("op")) for label in LABELS}
    assert all(found.beta()[label][index] > 0 for label, index in kept.items()) and numbers["removals"] == 2 * len(LABELS)


def test_removals_see_the_same_random_numbers() -> None:
    space = Known()
    plain = space.forward
    space.forward = lambda x, weights: plain(x, weights) * (0.5 + torch.rand(()))  # type: ignore[method-assign] # as drop-path does
    alpha = Alpha(space.choices(), "normal", 0.1).double()
    removals = Removals(searcher_of(space, alpha, partial(perturbation, batches=1)), "loss", 2)
    assert removals.cost(removals.weights) == removals.cost(removals.weights)


@pytest.mark.long
def test_a_space_that_keeps_some_edges_is_decided_edge_by_edge_and_then_node_by_node() -> None:
    """Against the rule of the public code (darts-pt, sota/cnn/projection.py), written anew over the supernet's own passes."""
    torch.manual_seed(0)
    names = ["none", "skip_connect", "sep_conv_3x3"]
    space = DARTSSpace(channels=2, num_cells=3, candidates=names, nodes=3, multiplier=3).double()
    alpha = Alpha(space.choices(), "normal", 1.0, generator=torch.Generator().manual_seed(1)).double()
    found = searcher_of(space, alpha, partial(perturbation, batches=1))
    found.objective, found.training, found.validation = (
        dataclasses.replace(found.objective, task=F.cross_entropy),
        Images(1),
        Images(2),
    )
    genotype, numbers = found.select()
    x, y = Images(2).next()
    random, weights = np.random.default_rng((0, 1)), {label: logits.softmax(0) for label, logits in alpha.by_label().items()}

    def loss(changed: Weights) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(space(x, {**weights, **changed}), y))

    labels = list(space.choices())
    for label in (labels[index] for index in random.permutation(len(labels))):
        losses = [loss({label: weights[label] * (torch.arange(3) != index)}) for index in (1, 2)]
        weights[label] = torch.eye(3, dtype=torch.float64)[1 + int(losses[1] > losses[0])]
    edges = {node: [label for label in labels if label.startswith(node)] for node in dict(genotype.picks)}
    wide = [node for node in edges if len(edges[node]) > 2]
    assert wide == ["normal3", "normal4", "reduce3", "reduce4"]
    for node in (wide[index] for index in random.permutation(len(wide))):
        while len(edges[node]) > 2:
            removed = {label: loss({label: torch.zeros(3, dtype=torch.float64)}) for label in edges[node]}
            edges[node].remove(least := min(edges[node], key=removed.__getitem__))
            weights[least] = torch.zeros(3, dtype=torch.float64)
    expected = {
        node: [f"{names[int(weights[label].argmax())]}~{label.split('<-')[1]}" for label in kept] for node, kept in edges.items()
    }
    assert {label: list(kept) for label, kept in genotype.picks} == expected
    assert numbers["removals"] == 2 * (2 + 3 + 4) * 2 + 2 * (3 + 4 + 3)
    assert len({pick for picks in expected.values() for pick in picks}) > 3


def test_weights_are_tuned_between_decisions_and_alpha_is_not() -> None:
    space = Known()
    found = searcher_of(space, Alpha(space.choices()).double(), argmax)
    found.plan = dataclasses.replace(found.plan, steps_per_epoch=3)
    found.weight_optimizer = torch.optim.SGD([{"params": found.space.parameters(), "initial_lr": 0.1}], lr=1e-9)
    found.select = partial(perturbation, batches=1, tune_epochs=2)(found)
    alpha, descend, rates = [logits.clone() for logits in found.alpha.parameters()], found.descend, []
    found.descend = lambda *args: (rates.append(args[1].param_groups[0]["lr"]), descend(*args))[1]  # type: ignore[method-assign]
    found.select()
    assert rates == [pytest.approx(0.01)] * (3 * 2 * 3) and found.training.position == len(rates)
    assert found.space.factor.item() < 1 and all(map(torch.equal, alpha, found.alpha.parameters()))


def test_what_perturbation_cannot_do_is_refused_before_the_search() -> None:
    with pytest.raises(UserError, match="perturbation keeps to no budget"):
        search(perturbation)
    with pytest.raises(UserError, match=r"no 'psnr' here\. Allowed: loss"):
        perturbation(toy_search(), criterion="psnr")


class Images(ToyStream):
    """Batches of images and classes."""

    def next(self) -> tuple[Tensor, Tensor]:
        x = super().next()[0]
        return x[:, [0, 1, 0]].repeat(3, 1, 2, 2), torch.arange(len(x) * 3) % 10


def searcher_of(space: Any, alpha: Alpha, selection: Any, metrics: Any = {}) -> Searcher:  # noqa: B006
    """One step that moves nothing, and no budget."""
    found = search(argmax)
    weights, optimizer = (torch.optim.SGD(each.parameters(), lr=0.0) for each in (space, alpha))
    schedule = torch.optim.lr_scheduler.ConstantLR(weights, 1.0)
    changes = {"weight_optimizer": weights, "alpha_optimizer": optimizer, "scheduler": schedule, "metrics": metrics}
    return dataclasses.replace(found, space=space, alpha=alpha, budgets={}, selection=selection, **changes)


SELECTING = [(3, "evolution"), (19, "evolution"), (19, "perturbation")]


@pytest.mark.parametrize(("stop", "kind"), SELECTING)
def test_a_search_that_is_stopped_selects_what_an_uninterrupted_one_does(stop: int, kind: str) -> None:
    def begin() -> Searcher:
        found = toy_search(relaxation=uniform_path if kind == "evolution" else softmax, epochs=2)
        if kind == "evolution":
            found.select = partial(evolution, population=4, cycles=3)(found)
        else:
            found.select = partial(perturbation, batches=1, tune_epochs=1)(found)
        return found

    straight, first = begin(), begin()
    expected, records = run(straight), run(first, stop)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = begin()
    second.load_state_dict(torch.load(buffer, weights_only=True))
    records += run(second)
    for record in (*expected, *records):
        del record["seconds"]
    assert records == expected and max(records[-1]["selection"].values()) > 1
    assert torch.equal(flat(straight), flat(second))


def test_scores_are_of_batch_statistics_and_change_no_statistics() -> None:
    found = toy_search()
    before = {name: buffer.clone() for name, buffer in found.space.named_buffers()}
    scores = Scores(found, 2)
    scores.begin()
    genotype = found.genotype()
    score = scores(genotype)
    assert all(torch.equal(before[name], buffer) for name, buffer in found.space.named_buffers())
    stream = ToyStream(2)
    found.space.train()
    losses = [F.mse_loss(found.space(x, scores.path(genotype)), y).item() for x, y in (stream.next(), stream.next())]
    assert score == pytest.approx(sum(losses) / 2, rel=1e-12)


@pytest.mark.parametrize("selection", [partial(evolution, population=3, cycles=6), partial(early_stopping, networks=2, steps=1)])
def test_choices_of_inputs_are_selected_too(selection: Any) -> None:
    torch.manual_seed(0)
    space, stream = DLSRSpace(2, 16, 4, candidates=["conv_1x1", "conv_3x3"]), ToyStream(1, torch.float32)
    stream.next = lambda: (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16))  # type: ignore[method-assign]
    cost = network_costs(space, {"params": math.inf})["params"]
    budget = dataclasses.replace(cost, limit=0.5 * (cost.least + cost.most))
    alpha, weights = Alpha(space.choices()), torch.optim.Adam(space.parameters())
    found = Searcher(
        space,
        alpha,
        uniform_path,
        Objective(F.l1_loss, none, lambda _: 0.0, space.choices()),
        stream,
        stream,
        weights,
        torch.optim.Adam(alpha.parameters()),
        torch.optim.lr_scheduler.ConstantLR(weights, 1.0),
        Plan(epochs=1, steps_per_epoch=2),
        {"params": budget},
        selection,
    )
    (record,) = run(found)
    genotype, choices = Genotype.from_json(record["genotype"]), space.choices()
    assert budget.of(genotype, choices) <= budget.limit and record["selection"]["scored"] >= 2
    assert all(len(set(names)) == choices[label].picks for label, names in genotype.picks)
    assert {label: mask.sum().item() for label, mask in Scores(found, 1).path(genotype).items()} == alpha.picks


def test_networks_that_are_not_finite_are_last_and_alone_an_error() -> None:
    found = search(partial(random_networks, networks=5))
    with torch.no_grad():
        found.space.factor.fill_(math.inf)
    with pytest.raises(UserError, match="none of 5 networks has a finite loss"):
        found.select()


def test_a_space_whose_genotype_leaves_choices_open_is_refused_before_the_search() -> None:
    found = search(argmax)
    found.space = DARTSSpace(channels=4, num_cells=3, num_classes=3)
    found.alpha, found.budgets = Alpha(found.space.choices()), {}
    with pytest.raises(UserError, match="does not say what 'normal2<-0' keeps"):
        one_shot(found)


def test_in_evolution_the_oldest_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    population, parents, children = 4, [], []

    def child(parent: Genotype, scores: Scores) -> Genotype:
        parents.append(parent)
        children.append(scores.draw(1)[0])
        return children[-1]

    monkeypatch.setattr(module, "_child", child)
    run(search(partial(evolution, population=population, tournament=3, cycles=30)))
    for cycle in range(population, 30):
        assert parents[cycle] in children[cycle - population : cycle]
    assert len(set(parents[population:])) > population
