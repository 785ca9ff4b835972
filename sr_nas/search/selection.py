"""Selections: how a search chooses its network once the steps are done, by losses of networks in the supernet, or trained alone.

To add one, register a function here: searcher to :data:`~sr_nas.search.searcher.Selection`. It is called before the first step,
so that it can refuse a space, and what it returns is called after the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean, median
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.optim import Optimizer

from sr_nas.contracts import Weights
from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import WIDTH, Choice, Genotype
from sr_nas.registry import SELECTIONS
from sr_nas.runs.device import forked_rng
from sr_nas.runs.distributed import replicate
from sr_nas.search.bilevel import StepContext
from sr_nas.search.budget import USED, draw, front
from sr_nas.search.searcher import Searcher, Selection

Count = Annotated[int, Ge(1), Le(10**6)]
AtLeast2 = Annotated[int, Ge(2), Le(10**6)]
TRIES = 1000
"""Children that evolution draws before it takes a random network instead."""


class Scores:
    """Task losses of networks with the weights that they inherit from a supernet, less is better; every network is run once.

    BatchNorms take the statistics of each batch, as in training: running ones are of all the networks that were mixed or drawn,
    and fit none. Weights and statistics of the supernet stay as they are.

    Args:
        searcher: a search whose space names what each of its choices keeps; else a UserError is raised.
        batches: number of the validation batches, the next of the stream, the same for all networks.
        uniform: whether networks are drawn without regard to alpha; a UserError is raised where candidates are dropped by it.
    """

    def __init__(self, searcher: Searcher, batches: int, uniform: bool = False) -> None:
        if uniform and "operations_kept" in searcher.over_epochs:
            raise UserError(
                "search.selection: networks drawn uniformly have candidates that search.over_epochs.operations_kept drops. "
                "Use argmax, one_shot or perturbation."
            )
        self.searcher, self.count, self.losses = searcher, batches, dict[Genotype, float]()
        self.random = np.random.default_rng((searcher.plan.seed, searcher.steps))
        self.costs = list(searcher.multipliers.costs.values())  # those that some network exceeds
        self.choices, self.least = searcher.space.choices(), 0.0
        self.path(searcher.genotype())

    def path(self, genotype: Genotype) -> Weights:
        """Return label -> bool mask of the candidates that a network keeps; weights of the supernet that make it this network."""
        masks = {}
        for label, choice in self.choices.items():
            names = dict(genotype.picks).get(label, choice.candidates)
            if len(names) != choice.picks:
                raise UserError(
                    f"search.selection: the supernet cannot run a single network of {genotype.arch}, which does not say what "
                    f"'{label}' keeps. Use argmax."
                )
            masks[label] = torch.tensor([name in names for name in choice.candidates])
        return masks

    @torch.no_grad()
    def __call__(self, genotype: Genotype) -> float:
        """Return the mean loss of a network, as :meth:`mean`."""
        if genotype not in self.losses:
            path = self.path(genotype)
            self.losses[genotype] = _mean(self.steps, lambda step: step.task({}, step.validation, path))
        return self.losses[genotype]

    def begin(self) -> None:
        """Read the batches; find what a network is to use of the budgets: 92 %, or so much of what the dearest one can."""
        batches = [self.searcher.next_batch(self.searcher.validation) for _ in range(self.count)]
        self.steps = [self.searcher.context(batch, batch) for batch in batches]
        if self.costs:
            most = max(self._dearest(width) for width in range(len(self.costs[0].frames)))
            self.least = USED if most >= USED else USED * most

    def _dearest(self, width: int) -> float:
        """Return how much of its tightest budget the dearest network of a width uses, a share; 0 where none is within them."""
        tables, weights = [(cost.operations, cost.limit) for cost in self.costs], dict(self.searcher.beta())
        for label in tables[0][0]:
            weights[label] = torch.stack([table[label][width] / limit for table, limit in tables]).sum(0).exp()
        if WIDTH in weights:
            weights[WIDTH] = torch.eye(len(weights[WIDTH]))[width]
        networks = front(self.searcher.space, weights, self.costs)
        shares = [own / cost.limit for own, cost in zip(networks[0].costs, self.costs, strict=True)] if networks else []
        return max(shares, default=0.0)

    def draw(self, count: int, weights: Weights | None = None) -> list[Genotype]:
        """Return networks that use the budgets, uniform or by chances of candidates; the argmax where none is found."""
        networks = draw(self.searcher.space, self.costs, count, self.random, self.least, weights=weights)
        return networks or [self.searcher.genotype()]

    def uses_budgets(self, genotype: Genotype) -> bool:
        """Return whether a network is within all budgets and uses one of them."""
        shares = [cost.of(genotype, self.choices) / cost.limit for cost in self.costs]
        return not shares or self.least <= max(shares) <= 1

    def best(self) -> tuple[Genotype, dict[str, float]]:
        """Return the network of the least loss of all that were run, and numbers for the history."""
        genotype = min(self.losses, key=self.losses.__getitem__)
        if math.isinf(self.losses[genotype]):
            raise UserError(f"search.selection: none of {len(self.losses)} networks has a finite loss. Lower train.optim_g.lr.")
        losses = self.losses.values()
        return genotype, {"scored": len(losses), "best": self.losses[genotype], "median": median(losses)}


def _mean(steps: Sequence[StepContext], loss: Callable[[StepContext], Tensor]) -> float:
    """Return the mean of a loss over validation batches and processes; infinity where it is not finite."""
    mean = fmean(step.average([loss(step)])[0].item() for step in steps)
    return mean if math.isfinite(mean) else math.inf


def _best_of(searcher: Searcher, networks: int, batches: int, of_beta: bool) -> Selection:
    scores = Scores(searcher, batches, uniform=not of_beta)

    def select() -> tuple[Genotype, dict[str, float]]:
        scores.begin()
        genotypes = scores.draw(networks, searcher.beta() if of_beta else None)
        for genotype in [searcher.genotype()] * of_beta + genotypes:
            scores(genotype)
        return scores.best()

    return select


@SELECTIONS.register()
def one_shot(searcher: Searcher, *, networks: Count = 100, batches: Count = 8) -> Selection:
    """The best of networks drawn from beta that use the budgets, and of the argmax, by their loss in the supernet.

    Drawing by what was learned and comparing by inherited weights is one-shot search as of SNAS and SPOS (Guo et al. 2020).

    Args:
        searcher: of the supernet.
        networks: how many are drawn; fewer where beta has no more.
        batches: validation batches that each is run on.
    """
    return _best_of(searcher, networks, batches, of_beta=True)


@SELECTIONS.register("random")
def random_networks(searcher: Searcher, *, networks: Count = 100, batches: Count = 8) -> Selection:
    """The best of uniform random networks that use the budgets, by their loss in the supernet.

    With ``relaxation: uniform_path`` it is random search with weight sharing (Li & Talwalkar 2019).

    Args:
        searcher: of the supernet.
        networks: how many are drawn; fewer where there are no more.
        batches: validation batches that each is run on.
    """
    return _best_of(searcher, networks, batches, of_beta=False)


@SELECTIONS.register()
def evolution(
    searcher: Searcher, *, population: AtLeast2 = 25, tournament: Count = 5, cycles: Count = 100, batches: Count = 8
) -> Selection:
    """Regularised evolution (Real et al. 2019) of networks that use the budgets, by their loss in the supernet.

    It begins with uniform random networks. In every cycle the best of some of the population, drawn at random, has a child, and
    the oldest dies. A child differs in one choice, or in as many more as it takes to use the budgets again. The best of all that
    have lived is selected.

    Args:
        searcher: of the supernet.
        population: networks that live at a time.
        tournament: how many of them are drawn to have a child, with replacement.
        cycles: children.
        batches: validation batches that each network is run on.
    """
    scores = Scores(searcher, batches, uniform=True)

    def select() -> tuple[Genotype, dict[str, float]]:
        scores.begin()
        alive = deque(scores.draw(population))
        for _ in range(cycles):
            drawn = [alive[index] for index in scores.random.integers(len(alive), size=tournament)]
            alive.append(_child(min(drawn, key=scores), scores))
            if len(alive) > population:
                alive.popleft()
        for genotype in alive:
            scores(genotype)
        return scores.best()

    return select


@SELECTIONS.register()
def early_stopping(
    searcher: Searcher,
    *,
    networks: Count = 8,
    steps: Count = 200,
    source: Literal["uniform", "beta"] = "uniform",
    batches: Count = 8,
) -> Selection:
    """The best of networks that use the budgets and were trained alone for a while, by their loss then.

    With ``source: uniform`` it is random search with early stopping (Li & Talwalkar 2019), which needs no supernet: of that a
    single step suffices. Networks are trained on the same batches, by the optimizer of the supernet at its first learning rate.

    Args:
        searcher: of the supernet, whose weights are not used.
        networks: how many are trained; fewer where there are no more.
        steps: batches that each is trained on.
        source: uniform draws random networks, beta those that alpha prefers.
        batches: validation batches that each is run on.
    """
    scores = Scores(searcher, batches, uniform=source == "uniform")

    def select() -> tuple[Genotype, dict[str, float]]:
        scores.begin()
        start = searcher.training.state_dict()
        for genotype in scores.draw(networks, searcher.beta() if source == "beta" else None):
            searcher.training.load_state_dict(start)
            scores.losses[genotype] = _loss_alone(genotype, scores, steps)
        return scores.best()

    return select


@SELECTIONS.register()
def perturbation(
    searcher: Searcher, *, criterion: str = "loss", batches: Count = 8, tune_epochs: Annotated[int, Ge(0)] = 0
) -> Selection:
    """The network of what the supernet misses most where it is removed (DARTS-PT, Wang et al., ICLR 2021), whatever its beta.

    Choices are decided one after another in random order, each in the supernet that the decisions before it have left. The weight
    of each candidate in turn is set to 0, the others keep theirs; the candidate stays, with a weight of 1, without which the
    criterion is worst. A choice of several inputs keeps as many, with their weights. Where a network has but some of the edges of
    the space, it is then decided in the same way which.

    Args:
        searcher: of the supernet.
        criterion: loss, or a metric of the task: accuracy, psnr.
        batches: validation batches that each removal is measured on, the same for all.
        tune_epochs: epochs that the weights alone are trained between two decisions, at a tenth of their first learning rate.
    """
    if searcher.budgets:
        raise UserError("search.selection: perturbation keeps to no budget. Use one_shot or evolution, or leave the budget out.")
    if criterion != "loss" and criterion not in searcher.metrics:
        known = ["loss", *searcher.metrics]
        raise UserError(
            f"search.selection.criterion: no '{criterion}' here{nearest(criterion, known)} Allowed: {listing(known)}."
        )
    random = np.random.default_rng((searcher.plan.seed, searcher.steps))
    open_choices = [
        (label, choice) for label, choice in searcher.space.choices().items() if choice.picks < len(choice.candidates)
    ]
    open_groups = [group for group in getattr(searcher.space, "groups", dict)().values() if len(group[0]) > group[1]]

    def select() -> tuple[Genotype, dict[str, float]]:
        removals = Removals(searcher, criterion, batches)
        optimizer = _new_optimizer(searcher, searcher.space, 0.1)
        decisions: list[Callable[[], None]] = []
        for members in (
            [partial(removals.decide, *choice) for choice in open_choices],
            [partial(removals.thin_out, *group) for group in open_groups],
        ):
            decisions += [members[index] for index in random.permutation(len(members))]
        for number, decide in enumerate(decisions):
            for _ in range(tune_epochs * searcher.plan.steps_per_epoch if number else 0):
                searcher.descend(searcher.replica, optimizer, searcher.next_batch(searcher.training), removals.weights)
            decide()
        sign = 1 if criterion == "loss" else -1
        numbers = {"removals": removals.count, criterion: sign * removals.cost(removals.weights)}
        return searcher.space.decode(removals.weights), numbers

    return select


class Removals:
    """A supernet that is decided choice by choice, by what it loses without each candidate.

    Attributes:
        weights: label -> weights of its candidates, 1 and 0 where one is kept.
        count: removals that were measured.
    """

    def __init__(self, searcher: Searcher, criterion: str, batches: int) -> None:
        self.weights, self.count, self.device = dict(searcher.beta()), 0, searcher.device
        self.never = getattr(searcher.space, "never_kept", ())
        steps = [searcher.context(batch, batch) for batch in (searcher.next_batch(searcher.validation) for _ in range(batches))]
        if (metric := searcher.metrics.get(criterion)) is not None:
            objective = replace(searcher.objective, task=lambda output, target: -metric(output, target))
            steps = [replace(step, objective=objective) for step in steps]
        self.steps = steps

    @torch.no_grad()
    def cost(self, weights: Weights) -> float:
        """Return the mean of the criterion over the batches, less is better; what a candidate draws is the same every time."""
        with forked_rng(self.device):
            return _mean(self.steps, lambda step: step.task({}, step.validation, weights))

    def without(self, label: str, index: int | slice = slice(None)) -> float:
        """Return the cost without one candidate of a choice, or without all."""
        self.count += 1
        changed = self.weights[label].clone()
        changed[index] = 0
        return self.cost({**self.weights, label: changed})

    def decide(self, label: str, choice: Choice) -> None:
        """Keep those candidates of a choice without which the cost is highest; ties go to the first."""
        allowed = [index for index, name in enumerate(choice.candidates) if name not in self.never]
        # To remove a candidate that the search has dropped, whose weight is 0, changes nothing.
        left = [index for index in allowed if self.weights[label][index] != 0] or allowed
        costs = {index: self.without(label, index) for index in left}
        kept = sorted(costs, key=costs.__getitem__, reverse=True)[: choice.picks]
        decided = torch.zeros_like(self.weights[label])
        decided[kept] = 1 if choice.picks == 1 else self.weights[label][kept]
        self.weights[label] = decided

    def thin_out(self, labels: Sequence[str], most: int) -> None:
        """Remove one of several choices after another, that without which the cost is lowest, until so many are left."""
        left = list(labels)
        while len(left) > most:
            costs = {label: self.without(label) for label in reversed(left)}  # ties go to the last
            left.remove(least := min(costs, key=costs.__getitem__))
            self.weights[least] = torch.zeros_like(self.weights[least])


def _new_optimizer(searcher: Searcher, network: nn.Module, share: float = 1.0) -> Optimizer:
    """Return an optimizer as that of the supernet, without its state, at a share of its first learning rate."""
    settings, kind = searcher.weight_optimizer.param_groups[0], cast(Any, type(searcher.weight_optimizer))
    optimizer: Optimizer = kind(network.parameters())
    rate = share * settings.get("initial_lr", settings["lr"])
    optimizer.param_groups[0].update({key: value for key, value in settings.items() if key in optimizer.defaults}, lr=rate)
    return optimizer


def _loss_alone(genotype: Genotype, scores: Scores, steps: int) -> float:
    """Train a network from scratch; return its mean loss over the batches, with the statistics of its own BatchNorms."""
    searcher = scores.searcher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(searcher.plan.seed)
        network = searcher.space.derive(genotype).to(searcher.device).train()
    optimizer, replica = _new_optimizer(searcher, network), replicate(network)
    for _ in range(steps):
        searcher.descend(replica, optimizer, searcher.next_batch(searcher.training))
    network.eval()
    with torch.no_grad():
        return _mean(scores.steps, lambda step: step.objective.task(network(step.validation[0]), step.validation[1]))


def _child(parent: Genotype, scores: Scores) -> Genotype:
    """Return a network that uses the budgets and differs from its parent in as few choices as that takes, changed at random."""
    for _ in range(TRIES):
        child = parent
        for label in scores.random.permutation([label for label, _ in parent.picks]):
            child = _mutant(child, label, scores)
            if child != parent and scores.uses_budgets(child):
                return child
    return scores.draw(1)[0]


def _mutant(genotype: Genotype, label: str, scores: Scores) -> Genotype:
    """Return a genotype in which another candidate takes the place of one that a choice keeps."""
    names = list(genotype[label])
    others = [name for name in scores.choices[label].candidates if name not in names]
    if others:
        names[scores.random.integers(len(names))] = others[scores.random.integers(len(others))]
    return Genotype(genotype.arch, tuple((own, tuple(names) if own == label else old) for own, old in genotype.picks))
