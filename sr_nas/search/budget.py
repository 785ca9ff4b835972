"""Budgets of a search: the best genotype within them, exactly, and the multipliers that keep alpha near them.

The cost of a derived network is a fixed part plus what each chosen candidate adds, so that the best genotype under budgets is a
multiple-choice knapsack, which :func:`front` solves. While alpha moves, :class:`Multipliers` pull it to where the network that
will be decoded uses its budget. They compare decoded networks, as the multiplier of LightNAS (Luo et al. 2022) does, and not the
cost that softmax expects (SA-DARTS, eq. 18): a mixture of the cheapest and the dearest candidates meets any budget on average,
and no network of it need be near.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sr_nas.contracts import SearchSpace, Weights
from sr_nas.errors import UserError, listing, short
from sr_nas.genotype import WIDTH, Choices, Genotype
from sr_nas.search.alpha import Alpha
from sr_nas.search.objective import CostTable, expected_cost

Values = npt.NDArray[np.float64]

USED = 0.92
"""Least share of the tightest budget that a search is to use: a budget is what may be spent, and larger networks are better."""
MARGIN = 0.1
"""By how much the sum of log beta of the best network within the budget is to exceed that of the best other one."""
PENALTY, RATE = 2.0, 0.1
"""rho of the augmented Lagrangian, and the step of its multiplier; a force of 1 on alpha is as strong as the task."""
MEMORY = 0.95
"""Decay of the running length of the task's gradient, by which the force is scaled."""
BINS = 1000
"""Steps in which :class:`Band` counts costs, between the cheapest network and the budget."""


@dataclass(frozen=True)
class Cost:
    """Cost of derived networks: ``fixed`` plus ``table[label][i]`` for the candidate i that each label keeps.

    Attributes:
        fixed: what every network of the space costs.
        table: label -> cost of each candidate, float64 ``[candidates]`` on the CPU; choices of inputs are absent. Where the
            network's width is chosen, ``[widths, candidates]``, and ``[widths]`` for the width itself.
        limit: the budget, in the unit of the table.
    """

    fixed: float
    table: CostTable
    limit: float = math.inf

    def of(self, genotype: Genotype, choices: Choices) -> float:
        """Return the cost of a network of the space."""
        picks = {label: choices[label].candidates.index(genotype[label][0]) for label in self.table}
        return self.fixed + sum(float(costs[_place(label, costs, picks)]) for label, costs in self.table.items())

    def expected(self, weights: Weights) -> Tensor:
        """Return the cost that relaxed weights expect, a scalar."""
        first = next(iter(weights.values()))
        return self.fixed + expected_cost(weights, {label: costs.to(first) for label, costs in self.table.items()})

    @property
    def frames(self) -> Tensor:
        """What a network costs besides its operations, ``[widths]``; of a space without a choice of the width, ``[1]``."""
        return self.fixed + self.table.get(WIDTH, torch.zeros(1, dtype=torch.float64))

    @property
    def operations(self) -> dict[str, Tensor]:
        """Label -> cost of each candidate at each width, ``[widths, candidates]``."""
        count = len(self.frames)
        return {label: costs.expand(count, -1) for label, costs in self.table.items() if label != WIDTH}

    @property
    def least(self) -> float:
        """Cost of the cheapest network."""
        return min(_sums(self, torch.amin))

    @property
    def most(self) -> float:
        """Cost of the dearest network."""
        return max(_sums(self, torch.amax))

    def extreme(self, dearest: bool) -> dict[str, int]:
        """Return the candidates, by number, of the cheapest network, or of the dearest one."""
        sums = _sums(self, torch.amax if dearest else torch.amin)
        width = sums.index(max(sums) if dearest else min(sums))
        end = torch.argmax if dearest else torch.argmin
        picks = {label: int(end(costs[width])) for label, costs in self.operations.items()}
        return picks | ({WIDTH: width} if WIDTH in self.table else {})


def _place(label: str, costs: Any, picks: Mapping[str, Any]) -> Any:
    """Return the indices of picked candidates in a table of costs."""
    return picks[label] if costs.ndim == 1 else (picks[WIDTH], picks[label])


def _sums(cost: Cost, end: Callable[..., Tensor]) -> list[float]:
    """Return for each width the sum of an extreme of every label."""
    frames = cost.frames.tolist()
    ends = [end(costs, 1).tolist() for costs in cost.operations.values()]
    return [frame + sum(own[width] for own in ends) for width, frame in enumerate(frames)]


@dataclass(frozen=True)
class Candidate:
    """A network that no other one beats in all of its costs and in the sum of log beta.

    Attributes:
        genotype: of the network.
        costs: in the order in which they were asked for.
        log_beta: sum of the logarithms of beta of its candidates, over the labels that cost something.
    """

    genotype: Genotype
    costs: tuple[float, ...]
    log_beta: float


def front(space: SearchSpace, weights: Weights, costs: Sequence[Cost]) -> list[Candidate]:
    """Return the Pareto front of costs and sum of log beta within all limits, dearest first; empty where no network is.

    A dynamic programme over the labels keeps what can still be best: of two beginnings, one that is dearer in everything and has
    a smaller sum cannot. Labels without a cost are decoded as the space does.
    """
    labels = list(costs[0].operations)
    tables = [np.stack([cost.operations[label].numpy() for cost in costs], axis=2) for label in labels]
    # Of what is still to come, the least at each width: a beginning that exceeds a limit with it is dropped.
    rest = np.cumsum([table.min(axis=1) for table in tables[::-1]], axis=0)[::-1]
    rest = np.concatenate([rest[1:], np.zeros_like(rest[:1])])
    limits, totals = np.array([cost.limit for cost in costs]), np.stack([cost.frames.numpy() for cost in costs], axis=1)
    width, scores = np.arange(len(totals)), _log_beta(weights, WIDTH) if WIDTH in costs[0].table else np.zeros(1)
    picks = width[:, None]
    for label, table, least in zip(labels, tables, rest, strict=True):
        beta = _log_beta(weights, label)
        totals = (totals[:, None] + table[width]).reshape(-1, len(costs))
        scores = (scores[:, None] + beta[None]).ravel()
        picks = np.concatenate([picks.repeat(len(beta), axis=0), np.tile(np.arange(len(beta)), len(picks))[:, None]], axis=1)
        alive = np.flatnonzero((totals + least[picks[:, 0]] <= limits).all(axis=1))
        groups = [alive[picks[alive, 0] == number] for number in np.unique(picks[alive, 0])]  # comparable at equal width
        best = np.concatenate([own[_not_dominated(totals[own], scores[own])] for own in groups]) if groups else alive
        totals, scores, picks = totals[best], scores[best], picks[best]
        width = picks[:, 0]
    best = _not_dominated(totals, scores)
    totals, scores, picks = totals[best], scores[best], picks[best]
    labels, picks = ([WIDTH, *labels], picks) if WIDTH in costs[0].table else (labels, picks[:, 1:])
    order = np.lexsort((*totals.T[::-1], scores))[::-1]
    genotypes = [decode_picks(space, weights, dict(zip(labels, picks[index], strict=True))) for index in order]
    return list(map(Candidate, genotypes, map(tuple, totals[order].tolist()), scores[order].tolist()))


def _log_beta(weights: Weights, label: str) -> Values:
    beta: Values = weights[label].detach().double().cpu().clamp_min(torch.finfo(torch.float64).tiny).log().numpy()
    return beta


def decode(space: SearchSpace, weights: Weights, costs: Sequence[Cost]) -> Genotype:
    """Return the genotype of the largest sum of log beta within all limits: the space's own wherever that one is within them.

    Some network must be within the limits (:func:`check_limits`).
    """
    genotype, choices = space.decode(weights), space.choices()
    if all(cost.of(genotype, choices) <= cost.limit for cost in costs):
        return genotype
    return front(space, weights, costs)[0].genotype


def check_limits(space: SearchSpace, budgets: Mapping[str, Cost]) -> None:
    """Raise UserError, which names the network nearest to them, where no network of the space is within all budgets."""
    even = {label: torch.ones(len(choice.candidates)) for label, choice in space.choices().items()}
    for name, cost in budgets.items():
        if cost.limit < cost.least:
            cheapest = front(space, even, [replace(cost, limit=math.inf)])[-1].genotype
            raise UserError(
                f"search.budget.{name} is {short(cost.limit)}, and the cheapest network has {short(cost.least)}: {cheapest}."
            )
    if budgets and not front(space, even, list(budgets.values())):
        raise UserError(
            f"search.budget: no network of {space.arch} is within all of {listing(budgets)} together. Raise one of them."
        )


def draw(
    space: SearchSpace,
    costs: Sequence[Cost],
    count: int,
    generator: np.random.Generator,
    low_share: float = USED,
    high_share: float = 1.0,
    weights: Weights | None = None,
) -> list[Genotype]:
    """Return different random networks of a band of costs, every network of it as likely as any other.

    In the band are networks that cost at most ``high_share`` of every limit, and at least ``low_share`` of one of them. Labels
    without a cost are decoded from random weights; without costs, all are. With ``weights`` a network is as likely as the product
    of those of its candidates.

    Args:
        space: to draw from.
        costs: with finite limits; empty for the whole space.
        count: of networks; fewer are returned where the band has no more.
        generator: source of all that is random.
        low_share: of the band.
        high_share: of the band.
        weights: label -> chances of its candidates; by default all are even.
    """
    labels = sorted(costs[0].table, key=WIDTH.__ne__) if costs else []  # the width first
    even = {label: torch.ones(len(choice.candidates)) for label, choice in space.choices().items()}
    beta = {label: own.detach().double().cpu().numpy() for label, own in (weights or even).items()}
    networks: dict[object, Genotype] = {}
    tries, before = max(1000, 20 * count), -1
    # Where a network is left that was not drawn, so many tries all but surely find one.
    while len(networks) < count and len(networks) > before:
        before = len(networks)
        picks = _draw_picks(costs, beta, tries if len(costs) < 2 else 100 * tries, generator, low_share, high_share)[:tries]
        if len(labels) == len(beta):
            picks = picks[np.sort(np.unique(picks, axis=0, return_index=True)[1])]
        for row in picks:
            # The heaviest of chance / exponential noise is a candidate as often as its chance says, and so on for the second.
            noisy = {label: torch.from_numpy(own / generator.exponential(size=len(own))) for label, own in beta.items()}
            genotype = decode_picks(space, noisy, dict(zip(labels, row.tolist(), strict=True)))
            # In another order, the inputs of a cell are no other network.
            networks.setdefault(tuple(tuple(sorted(names)) for _, names in genotype.picks), genotype)
            if len(networks) == count:
                break
    return list(networks.values())


def _draw_picks(
    costs: Sequence[Cost], chances: Mapping[str, Values], count: int, generator: np.random.Generator, low: float, high: float
) -> Values:
    """Return the candidates, by number, of random networks of a band, int ``[at most count, labels that cost something]``.

    A dynamic programme adds up the chances of beginnings of networks by their first cost, in steps. The last label is drawn
    first, each candidate in proportion to its chance times that of the beginnings that fit it. What is outside of the band is
    left out.
    """
    if not costs:
        return np.zeros((count, 0), np.int64)
    first, labels = costs[0], list(costs[0].operations)
    step = max(min(high * first.limit, first.most) - first.least, 1e-12 * first.most) / BINS
    top = BINS + len(first.table)  # every label is rounded up, by less than a step
    starts = (first.frames + sum(own.amin(1) for own in first.operations.values()) - first.least).numpy()
    starts, tables = _bins(starts, step, top), [own.numpy() for own in first.operations.values()]
    bins = [_bins(own - own.min(axis=1, keepdims=True), step, top) for own in tables]
    ways = [np.where(np.arange(top + 1) == starts[:, None], chances[WIDTH][:, None] if WIDTH in first.table else 1.0, 0.0)]
    for label, own in zip(labels, bins, strict=True):
        rows = [
            chances[label] @ np.stack([np.concatenate([np.zeros(cost), before])[: top + 1] for cost in costs_at])
            for costs_at, before in zip(own, ways[-1], strict=True)
        ]
        ways.append(np.stack(rows))
    last = ways[-1].copy()
    if len(costs) == 1:
        last[:, : max(0, math.floor((low * first.limit - first.least) / step))] = 0
    if first.least > high * first.limit or not last.any():
        return np.zeros((0, len(first.table)), np.int64)
    width, place = np.divmod(generator.choice(last.size, count, p=last.ravel() / last.sum()), top + 1)
    picks: list[Any] = []
    for label, own, beginnings in zip(labels[::-1], bins[::-1], ways[-2::-1], strict=True):
        left = place[:, None] - own[width]
        total = (chances[label] * np.where(left >= 0, beginnings[width[:, None], left.clip(0)], 0)).cumsum(axis=1)
        picks.append((total > generator.random((count, 1)) * total[:, -1:]).argmax(axis=1))
        place = np.take_along_axis(left, picks[-1][:, None], axis=1)[:, 0]
    by_label = dict(zip(labels, picks[::-1], strict=True)) | {WIDTH: width}
    totals = [
        cost.fixed + sum(table.numpy()[_place(label, table, by_label)] for label, table in cost.table.items()) for cost in costs
    ]
    shares = np.stack([total / cost.limit for total, cost in zip(totals, costs, strict=True)])
    result = np.stack([*([width] if WIDTH in first.table else []), *picks[::-1]], axis=1)
    return result[(shares <= high).all(axis=0) & (shares >= low).any(axis=0)]


def _bins(costs: Values, step: float, top: int) -> npt.NDArray[np.int64]:
    return np.minimum(np.ceil(costs / step), top + 1).astype(np.int64)


def decode_picks(space: SearchSpace, weights: Weights, picks: Mapping[str, int]) -> Genotype:
    """Return the genotype with these candidates, by number, and the heaviest of all other labels."""
    one_hot = {label: torch.eye(len(weights[label]))[index] for label, index in picks.items()}
    return space.decode({**weights, **one_hot})


def _not_dominated(totals: Values, scores: Values) -> npt.NDArray[np.int64]:
    """Return the indices of the rows that no other equals or beats in all totals (less) and in the score (more)."""
    order = np.lexsort((*totals.T[::-1], -scores))  # of equal scores the cheaper one first
    if totals.shape[1] == 1:
        cheapest = np.minimum.accumulate(totals[order, 0])
        first = np.concatenate([[True], cheapest[1:] < cheapest[:-1]])[: len(order)]
        return order[first]
    kept: list[int] = []
    for index in order:
        if not (totals[kept] <= totals[index]).all(axis=1).any():
            kept.append(int(index))
    return np.array(kept, np.int64)


class Band:
    """The networks that use a budget: cost between ``USED * limit`` and the limit; where there are none, up to the dearest below.

    Networks are told apart by a dynamic programme over costs rounded up to a thousandth of the budget's leeway, whose work grows
    with the number of candidates and not of networks. Rounding up, it counts no network that exceeds the budget as within.
    """

    def __init__(self, cost: Cost, device: torch.device | str = "cpu") -> None:
        step = max(cost.limit - cost.least, 1e-12 * cost.most) / BINS  # there is no leeway in a budget of the cheapest network
        self.places = torch.arange(BINS + 2)

        def binned(costs: Tensor) -> Tensor:
            return (costs / step - 1e-9).ceil().clamp_max(BINS + 1).long()

        # Of widths and candidates, costs above the cheapest; more than BINS is over the budget, whatever the rest.
        tables = cost.operations
        starts = binned(cost.frames + sum(costs.amin(1) for costs in tables.values()) - cost.least)
        self.start = torch.zeros(len(starts), BINS + 2, dtype=torch.float64).where(self.places == starts[:, None], -torch.inf)
        self.bins = {label: binned(costs - costs.amin(1, keepdim=True)) for label, costs in tables.items()}
        even = {label: costs.new_zeros(costs.shape[-1]) for label, costs in cost.table.items()}
        reachable = int(self._best(even)[0][:, : BINS + 1].isfinite().any(0).nonzero().max())
        self.lowest = int(min(max((USED * cost.limit - cost.least) / step, 0), reachable))
        self.places, self.start = self.places.to(device), self.start.to(device)
        self.bins = {label: bins.to(device) for label, bins in self.bins.items()}

    def compare(self, log_beta: Mapping[str, Tensor], lowest: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the candidates of the best network within the band and of the best one outside, and the lead of the latter.

        Args:
            log_beta: label -> float64 ``[candidates]``.
            lowest: bool scalar; where it is false the band begins at the cheapest network.

        Returns:
            label -> int64 ``[2]``, the numbers of both candidates; and a scalar, ``-inf`` where no network is outside.
        """
        best, origins = self._best(log_beta)
        within = (self.places <= BINS) & ((self.places >= self.lowest) | ~lowest)
        ends = torch.stack((best.where(within, -torch.inf), best.where(~within, -torch.inf))).flatten(1)
        (inside, outside), place = ends.max(dim=1)
        width, place = place // (BINS + 2), place % (BINS + 2)
        picks = {WIDTH: width} if WIDTH in log_beta else {}
        for (label, bins), (chosen, over) in zip(reversed(self.bins.items()), reversed(origins), strict=True):
            picks[label] = chosen[width, place]
            before = place - bins[width, picks[label]]
            place = torch.where(place == BINS + 1, over[width, picks[label]], before)
        return picks, outside - inside

    def _best(self, log_beta: Mapping[str, Tensor]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the largest sum of log beta by width and bin, the last one for all over the budget, and by label its origins."""
        best, origins = self.start, []
        if WIDTH in log_beta:
            best = best + log_beta[WIDTH][:, None]
        for label, bins in self.bins.items():
            # The bin from which a candidate goes over the budget, and the best that there is in those from which it does not.
            most, over = best[:, None].where(self.places + bins[..., None] > BINS, -torch.inf).max(dim=2)
            before = self.places[:-1] - bins[..., None]
            padded = F.pad(best, (0, 1), value=-torch.inf)[:, None].expand(-1, bins.shape[1], -1)
            within = padded.gather(2, torch.where(before < 0, BINS + 2, before))
            best, chosen = (torch.cat((within, most[..., None]), dim=2) + log_beta[label][:, None]).max(dim=1)
            origins.append((chosen, over))
        return best, origins


class Multipliers:
    """Lagrange multipliers of the budgets of a search; :meth:`state_dict` holds all that resuming needs.

    The constraint of a budget is ``h = log beta(best network outside its band) - log beta(best one within) + MARGIN <= 0``, with
    sums over the labels. Its term in alpha's loss is that of an augmented Lagrangian, ``(max(0, m + rho h)^2 - m^2) / (2 rho)``,
    and the multiplier follows by ``m <- max(0, m + RATE h)`` after every alpha step. Its gradient on alpha is scaled to the
    length of the task's, averaged over the last steps: so the scale of the losses cancels, and no strength is left to choose.

    Args:
        costs: name -> cost with its limit. A budget that no network exceeds has no effect at all.
        device: of alpha.
    """

    def __init__(self, costs: Mapping[str, Cost], device: torch.device | str = "cpu") -> None:
        self.costs = {name: cost for name, cost in costs.items() if cost.limit < cost.most}
        self.bands = {name: Band(cost, device) for name, cost in self.costs.items()}
        self.tables = [{label: table.to(device) for label, table in cost.table.items()} for cost in self.costs.values()]
        # Tensors that steps overwrite and never read: a step must not wait for the device.
        self._values = torch.zeros(len(self.costs), dtype=torch.float64, device=device)
        self._length = torch.full((), -1, dtype=torch.float64, device=device)  # negative before the first step

    @property
    def values(self) -> dict[str, float]:
        """Name -> multiplier."""
        return dict(zip(self.costs, self._values.tolist(), strict=True))

    def add_gradient(self, alpha: Alpha, relaxation: Callable[..., Tensor]) -> None:
        """Add the budgets' gradient to the ``grad`` of alpha, which holds that of the task, and move the multipliers.

        ``relaxation`` is applied without a draw.
        """
        if not self.costs:
            return
        logits = alpha.by_label()
        log_beta = {
            label: weights.double().clamp_min(torch.finfo(torch.float64).tiny).log()
            for label, weights in alpha.relax(relaxation).items()
        }
        values = {label: beta.detach() for label, beta in log_beta.items()}
        argmax = {label: beta.argmax()[None] for label, beta in values.items()}
        shares = [
            (torch.stack([table[_place(label, table, argmax)] for label, table in tables.items()]).sum() + cost.fixed)
            / cost.limit
            for cost, tables in zip(self.costs.values(), self.tables, strict=True)
        ]
        tightest = torch.stack(shares).argmax()
        # A shift common to a choice, such as that of SA's regulariser, changes no beta and is no part of the task's pull.
        task = {label: grad - grad.mean() for label, own in logits.items() if (grad := own.grad) is not None}
        length = torch.stack([_length([task[label] for label in tables]) for tables in self.tables])[tightest[None]][0]
        self._length.copy_(torch.where(self._length < 0, length, MEMORY * self._length + (1 - MEMORY) * length))
        for index, band in enumerate(self.bands.values()):
            picks, lead = band.compare(values, lowest=tightest == index)
            value = self._values[index]
            excess = torch.maximum(lead + MARGIN, -value / RATE)  # -inf where no network is outside
            force = (value + PENALTY * excess).clamp_min(0)
            value += RATE * excess
            gap = torch.cat([log_beta[label].gather(0, pair).diff() for label, pair in picks.items()]).sum()
            pull = torch.autograd.grad(gap, [logits[label] for label in picks], retain_graph=True)
            scale = force * self._length / _length(pull).clamp_min(torch.finfo(torch.float32).tiny)
            for label, gradient in zip(picks, pull, strict=True):
                cast(Tensor, logits[label].grad).add_(gradient * scale)

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self._values, "length": self._length}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._values.copy_(state["values"])
        self._length.copy_(state["length"])


def _length(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean length of all tensors together, a float64 scalar."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt().double()
