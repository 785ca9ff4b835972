"""Architecture parameters alpha, and the relaxations that turn them into the weights beta of mixed operations.

To add a relaxation, register a function here. One that samples has a second parameter ``draw``: a :class:`Draw` in every pass,
``None`` for records and genotypes. One with a parameter ``picks`` is told how many candidates the choice keeps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn

from sr_nas.errors import UserError, listing, nearest
from sr_nas.genotype import Choices
from sr_nas.registry import RELAXATIONS

Temperature = Annotated[float, Gt(0)]


class Alpha(nn.Module):
    """One vector of logits per label, apart from any supernet: shape ``[number of candidates]`` each.

    Args:
        choices: label -> choice.
        init: ``"normal"``: ``value * N(0, 1)`` (the paper: 1e-3); ``"constant"``: ``value`` everywhere.
        value: see ``init``.
        offset: candidate name -> number added to its logit in every choice (SA-DARTS, section 3.2, gives skip 0.1); a name
            that no choice has raises :class:`UserError`.
        generator: source of the noise.
    """

    def __init__(
        self,
        choices: Choices,
        init: Literal["normal", "constant"] = "normal",
        value: float = 1e-3,
        offset: Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        offset = offset or {}
        known = sorted({name for choice in choices.values() for name in choice.candidates})
        for name in offset:
            if name not in known:
                raise UserError(
                    f"search.alpha.offset: no choice has the candidate '{name}'{nearest(name, known)} Known: {listing(known)}."
                )
        self.logits = nn.ParameterDict()
        self.picks = {label: choice.picks for label, choice in choices.items()}
        for label, choice in choices.items():
            size = len(choice.candidates)
            start = value * torch.randn(size, generator=generator) if init == "normal" else torch.full((size,), value)
            self.logits[label] = nn.Parameter(start + torch.tensor([offset.get(name, 0.0) for name in choice.candidates]))

    def by_label(self) -> dict[str, Tensor]:
        """Return label -> logits."""
        return dict(self.logits.items())

    def relax(self, relaxation: Callable[..., Tensor]) -> dict[str, Tensor]:
        """Return label -> weights, with a gradient to alpha where the relaxation has one."""
        if "picks" in inspect.signature(relaxation).parameters:
            return {label: relaxation(logits, picks=self.picks[label]) for label, logits in self.by_label().items()}
        return {label: relaxation(logits) for label, logits in self.by_label().items()}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for the work that a GPU has still to do."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor  # a copy from other memory waits
    return pinned.to(device, non_blocking=device.type != "mps")  # which does not keep the memory until it is read


class Draw:
    """Random numbers of one pass over the supernet: a pure function of ``address``, which is (seed, step, pass).

    So a resumed search draws what an uninterrupted one does, and all processes of a job draw the same. ``progress`` is the share
    of the epochs that is done, 0 in the first.
    """

    def __init__(self, address: tuple[int, ...], progress: float) -> None:
        self.progress = progress
        self._random = np.random.default_rng(address)

    def gumbel(self, like: Tensor) -> Tensor:
        """Return standard Gumbel noise, ``-log(-log(uniform))``, of the shape, dtype and device of ``like``."""
        return to_device(torch.from_numpy(self._random.gumbel(size=tuple(like.shape))).to(like.dtype), like.device)

    def mask(self, size: int, picks: int) -> Tensor:
        """Return a bool mask ``[size]`` on the CPU with ``picks`` places true, all sets of them equally likely."""
        return torch.from_numpy(self._random.permutation(size) < picks)


def in_pass(relaxation: Callable[..., Tensor], address: tuple[int, ...], progress: float) -> Callable[[Tensor], Tensor]:
    """Return the relaxation of one pass; it differs from pass to pass only for a relaxation that samples."""
    if "draw" not in inspect.signature(relaxation).parameters:
        return relaxation
    return partial(relaxation, draw=Draw(address, progress))


@RELAXATIONS.register()
def softmax(logits: Tensor, *, temperature: Temperature = 1.0) -> Tensor:
    """``softmax(alpha / temperature)`` (DARTS, eq. 1); shape ``[number of candidates]``, sums to 1."""
    return (logits / temperature).softmax(dim=-1)


@RELAXATIONS.register()
def gumbel_softmax(
    logits: Tensor, draw: Draw | None = None, *, temperature: Temperature = 1.0, final_temperature: Temperature = 0.03
) -> Tensor:
    """``softmax((alpha + G) / T)`` with Gumbel noise G, drawn anew in every pass (SNAS, Xie et al. 2019, eq. 5).

    The largest of ``alpha + G`` is that of candidate i with probability ``softmax(alpha)_i``, and a low T makes the sample
    nearly one-hot. T falls linearly over the epochs from ``temperature`` in the first to one epoch's fall above
    ``final_temperature`` in the last; the authors' public code has this fall over a fixed 150 epochs, off by default. Without a
    draw it is ``softmax(alpha)``, the distribution itself.
    """
    if draw is None:
        return logits.softmax(dim=-1)
    current = final_temperature + (1 - draw.progress) * (temperature - final_temperature)
    return ((logits + draw.gumbel(logits)) / current).softmax(dim=-1)


@RELAXATIONS.register()
def uniform_path(logits: Tensor, draw: Draw | None = None, picks: int = 1) -> Tensor:
    """A mask of the candidates to run, drawn uniformly in every pass, whatever alpha is (Li & Talwalkar 2019, weight sharing).

    Bool ``[number of candidates]`` on the CPU, with as many true as the choice keeps: mixed operations run these alone, with a
    weight of 1, so that a pass is one of the derived network. Alpha has no gradient, and takes no steps. Without a draw it is
    ``softmax(alpha)``.
    """
    return logits.detach().softmax(dim=-1) if draw is None else draw.mask(len(logits), picks)
