"""Selections: how a search chooses its network once the steps are done, by losses of networks in the supernet, or trained alone.

To add one, register a function here: searcher to :data:`~sr_nas.search.searcher.Selection`. It is called before the first step,
so that it can refuse a space, and what it returns is called after the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import fmean, median
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sr_nas.contracts import Weights
from sr_nas.errors import UserError
from sr_nas.genotype import WIDTH, Genotype
from sr_nas.registry import SELECTIONS
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
    """

    def __init__(self, searcher: Searcher, batches: int) -> None:
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
            self.losses[genotype] = self.mean(lambda step: step.task({}, step.validation, path))
        return self.losses[genotype]

    def mean(self, loss: Callable[[StepContext], Tensor]) -> float:
        """Return the mean of a loss over the batches and processes; infinity where it is not finite."""
        mean = fmean(step.average([loss(step)])[0].item() for step in self.steps)
        return mean if math.isfinite(mean) else math.inf

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


def _best_of(searcher: Searcher, networks: int, batches: int, of_beta: bool) -> Selection:
    scores = Scores(searcher, batches)

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


@SELECTIONS.register("threshold")
def above_threshold(searcher: Searcher, *, threshold: Annotated[float, Ge(0), Le(1)] = 0.85) -> Selection:
    """The argmax without its candidates below a threshold, in whose place there is ``none`` (FairDARTS, Chu et al. 2020).

    A choice without a candidate ``none`` keeps its argmax. The record says how many choices have no candidate above.

    Args:
        searcher: of a space without budgets, else a UserError is raised.
        threshold: least beta of what is kept.
    """
    choices = searcher.space.choices()
    if searcher.budgets:
        raise UserError("search.selection: threshold leaves candidates out, whatever search.budget asks for. Set one of them.")

    def select() -> tuple[Genotype, dict[str, float]]:
        weights, below = dict(searcher.beta()), 0
        for label, beta in weights.items():
            if "none" in choices[label].candidates:
                place = choices[label].candidates.index("none")
                weights[label] = beta * (beta >= threshold)
                weights[label][place] = weights[label][place].clamp_min(torch.finfo(beta.dtype).tiny)
                below += int(weights[label].argmax() == place)
        return searcher.space.decode(weights), {"below_threshold": below}

    return select


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
    scores = Scores(searcher, batches)

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
    scores = Scores(searcher, batches)

    def select() -> tuple[Genotype, dict[str, float]]:
        scores.begin()
        start = searcher.training.state_dict()
        for genotype in scores.draw(networks, searcher.beta() if source == "beta" else None):
            searcher.training.load_state_dict(start)
            scores.losses[genotype] = _loss_alone(genotype, scores, steps)
        return scores.best()

    return select


def _loss_alone(genotype: Genotype, scores: Scores, steps: int) -> float:
    """Train a network from scratch; return its mean loss over the batches, with the statistics of its own BatchNorms."""
    searcher, settings = scores.searcher, scores.searcher.weight_optimizer.param_groups[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(searcher.plan.seed)
        network = searcher.space.derive(genotype).to(searcher.device).train()
    kind: Any = type(searcher.weight_optimizer)
    optimizer, replica = kind(network.parameters()), replicate(network)
    rate = settings.get("initial_lr", settings["lr"])
    optimizer.param_groups[0].update({key: value for key, value in settings.items() if key != "params"}, lr=rate)
    for _ in range(steps):
        searcher.descend(replica, optimizer, searcher.next_batch(searcher.training))
    network.eval()
    with torch.no_grad():
        return scores.mean(lambda step: step.objective.task(network(step.validation[0]), step.validation[1]))


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
