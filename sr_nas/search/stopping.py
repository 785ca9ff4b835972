"""Criteria that end a search before its last epoch, by what its epochs have come to.

To add one, register a subclass of :class:`Stop` here. It judges after every epoch; what it remembers lies in buffers, which are
part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sr_nas.contracts import SearchSpace
from sr_nas.errors import UserError
from sr_nas.registry import STOPS
from sr_nas.runs.device import forked_rng
from sr_nas.search.decoding import check_cells, skip_connections
from sr_nas.search.searcher import Searcher

Count = Annotated[int, Ge(1), Le(10**6)]
Verdict = tuple[dict[str, float], str]
"""Numbers for the history, and why the search is to stop; an empty text where it is not."""


class Stop(nn.Module):
    """A criterion, with the alpha of every epoch that is done: ``alphas[epoch - 1]``, all logits in the order of the labels.

    Raises:
        UserError: alpha does not learn in this search.
    """

    alphas: Tensor

    def __init__(self, searcher: Searcher) -> None:
        super().__init__()
        if not searcher.learns_alpha:
            raise UserError("search.stop follows alpha, and search.relaxation does not depend on it. Leave stop out.")
        now = parameters_to_vector(searcher.alpha.parameters()).detach()
        self.register_buffer("alphas", now.new_zeros(searcher.plan.epochs, len(now)))

    def judge(self, searcher: Searcher, epoch: int) -> Verdict:
        """Judge the search after an epoch, counted from 1, whose alpha is noted already."""
        raise NotImplementedError

    def __call__(self, searcher: Searcher) -> Verdict:
        """Note an epoch that has just been done, and judge it."""
        epoch = searcher.step // searcher.plan.steps_per_epoch
        self.alphas[epoch - 1] = parameters_to_vector(searcher.alpha.parameters()).detach()
        numbers, reason = self.judge(searcher, epoch)
        return numbers, reason if epoch < searcher.plan.epochs else ""  # the last epoch is no early end


@STOPS.register("darts_plus")
class SkipsOrRanking(Stop):
    """DARTS+ (Liang et al. 2019): stop at so many skip connections in a cell, or once the ranking of alpha stays the same.

    Args:
        searcher: of the supernet.
        skips: skip connections of the genotype at which the search stops.
        first_epoch: the earliest that these can end the search at; before, they are accidents of alpha's start.
        patience: epochs over which the ranking of alpha among the candidates with parameters stays the same in every choice.
        cells: begin of the labels whose skip connections count, such as ``normal``; by default all do.
    """

    def __init__(
        self, searcher: Searcher, skips: Count = 2, first_epoch: Count = 10, patience: Count = 10, cells: str = ""
    ) -> None:
        super().__init__(searcher)
        self.skips, self.first_epoch, self.patience, self.cells = skips, first_epoch, patience, cells
        check_cells(searcher.genotype(), cells, "search.stop")
        self.learnable, self.sizes = learnable(searcher.space), [len(logits) for logits in searcher.alpha.parameters()]

    def judge(self, searcher: Searcher, epoch: int) -> Verdict:
        skips = skip_connections(searcher.genotype(), self.cells)
        # During the warm-up alpha, and so its ranking, stands still.
        by_choice = self.alphas[searcher.plan.warmup_epochs : epoch].split(self.sizes, dim=1)
        orders = [part[:, places].argsort(dim=1, stable=True) for part, places in zip(by_choice, self.learnable, strict=True)]
        rankings, unchanged = torch.cat(orders, dim=1), 0
        while unchanged + 1 < len(rankings) and torch.equal(rankings[-1], rankings[-2 - unchanged]):
            unchanged += 1
        reason = f"the ranking of alpha is that of {unchanged} epochs before" if unchanged >= self.patience else ""
        if skips >= self.skips and epoch >= self.first_epoch:
            reason = f"{skips} skip connections"
        return {"skip_connections": skips, "epochs_of_one_ranking": unchanged}, reason


def learnable(space: SearchSpace) -> list[list[int]]:
    """Return for each choice the places of those of its candidates that have parameters."""
    places = []
    with torch.device("meta"):  # which draws no random numbers
        sites = space.cost_sites()
        for label, choice in space.choices().items():
            own = sites.get(label, ())
            first = next(iter(own.values() if isinstance(own, Mapping) else [own]))[:1]
            names = choice.candidates if first else ()
            places.append([place for place, name in enumerate(names) if list(first[0].build(name).parameters())])
    return places


@STOPS.register("eigenvalue")
class Eigenvalue(Stop):
    """DARTS-ES (Zela et al., ICLR 2020): stop where the largest eigenvalue of the loss's Hessian in alpha grows, and go back.

    A local mean is that of an eigenvalue and those before it. The search stops where the local mean is ``factor`` times the one
    ``back`` eigenvalues before, and alpha goes back to where that one has its middle.

    Args:
        searcher: of the supernet.
        every: epochs from one eigenvalue to the next, which begin with the first epoch.
        window: eigenvalues of a local mean, fewer at the beginning.
        back: eigenvalues between the two local means.
        factor: of the two local means.
        first_epoch: epochs at least before the one that alpha goes back to.
    """

    values: Tensor

    def __init__(
        self,
        searcher: Searcher,
        every: Count = 2,
        window: Count = 5,
        back: Count = 4,
        factor: Annotated[float, Gt(0)] = 1.3,
        first_epoch: Annotated[int, Ge(0)] = 10,
    ) -> None:
        super().__init__(searcher)
        self.every, self.window, self.back, self.factor, self.first_epoch = every, window, back, factor, first_epoch
        self.register_buffer("values", self.alphas.new_zeros(len(self.alphas)))

    def judge(self, searcher: Searcher, epoch: int) -> Verdict:
        number, rest = divmod(epoch - 1, self.every)
        if rest:
            return {}, ""
        self.values[number] = largest_eigenvalue(searcher)
        numbers = {"eigenvalue": self.values[number].item(), "local_mean": self.local_mean(number)}
        before = epoch - 1 - self.every * (self.window // 2 + self.back)
        if before < self.first_epoch or epoch == searcher.plan.epochs:
            return numbers, ""
        if not (earlier := self.local_mean(number - self.back)):
            return numbers, ""  # alpha moved nothing, with one candidate left in every choice
        numbers["ratio"] = numbers["local_mean"] / earlier
        if numbers["ratio"] <= self.factor:
            return numbers, ""
        vector_to_parameters(self.alphas[before], searcher.alpha.parameters())
        return numbers, f"the largest eigenvalue is {numbers['ratio']:.3g} times what it was; alpha is that of epoch {before + 1}"

    def local_mean(self, number: int) -> float:
        """Return the mean of an eigenvalue, counted from 0, and those before it in the window."""
        return self.values[max(0, number + 1 - self.window) : number + 1].mean().item()


def largest_eigenvalue(searcher: Searcher) -> float:
    """Return the largest eigenvalue of the task loss's Hessian in alpha, on the next validation batch, which stays the next.

    By the Lanczos method, to four digits, from products of the Hessian with vectors, each a second backward pass.
    """
    position = searcher.validation.state_dict()
    batch = searcher.next_batch(searcher.validation)
    searcher.validation.load_state_dict(position)
    step, alphas = searcher.context(batch, batch), list(searcher.alpha.parameters())
    parameters = {name: parameter.detach() for name, parameter in searcher.space.named_parameters()}
    with forked_rng(searcher.device):  # a candidate that draws, such as noise, takes no numbers from the search
        loss = step.task(parameters, batch, searcher.alpha.relax(searcher.relaxation))
    gradient = parameters_to_vector(torch.autograd.grad(loss, alphas, create_graph=True, materialize_grads=True))

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(vector).to(gradient).flatten()
        parts = torch.autograd.grad(gradient, alphas, direction, retain_graph=True, materialize_grads=True)
        return parameters_to_vector(step.average(parts)).double().cpu().numpy()

    size = len(gradient)
    # Not a constant start: softmax does not see a common shift, which the Hessian takes to 0.
    start = np.random.default_rng(0).standard_normal(size)
    if not product(start).any():
        return 0.0  # which the Lanczos method fails on: alpha moves nothing, with one candidate left in every choice
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-4, return_eigenvectors=False)[0])
