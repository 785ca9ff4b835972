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
from torch.distributions import Dirichlet
from torch.nn import functional as F

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

    Attributes:
        kept: of all logits in the order of the labels, whether the candidate still has a weight (:attr:`operations_kept`).
    """

    kept: Tensor

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
        self.of_operations = [label for label, choice in choices.items() if choice.of == "operations"]
        self.register_buffer("kept", torch.ones(sum(map(len, self.logits.values())), dtype=torch.bool))
        self._places: dict[str, Tensor] = {}
        """Label -> places of the candidates that are kept, of choices that have lost some."""
        self.register_load_state_dict_post_hook(lambda module, _: module._find_places())

    def by_label(self) -> dict[str, Tensor]:
        """Return label -> logits."""
        return dict(self.logits.items())

    def relax(self, relaxation: Callable[..., Tensor], logits: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return label -> weights, with a gradient to alpha, or to other ``logits``, where the relaxation has one.

        Candidates that are not kept have a weight of 0.
        """
        takes_picks, result = "picks" in inspect.signature(relaxation).parameters, {}
        for label, values in (logits or self.by_label()).items():
            places = self._places.get(label)
            left = values if places is None else values[places]
            weights = relaxation(left, **({"picks": self.picks[label]} if takes_picks else {}))
            if places is not None:
                weights = weights.new_zeros(len(values)).index_copy(0, places.to(weights.device), weights)
            result[label] = weights
        return result

    @property
    def operations_kept(self) -> float:
        """Candidates that choices of operations have kept; setting it to less drops, for good, those of the smallest alpha.

        So progressive searches do: DrNAS (Chen et al., ICLR 2021, section 3.3), P-DARTS.
        """
        return max((len(self._places.get(label, self.logits[label])) for label in self.of_operations), default=0)

    @operations_kept.setter
    def operations_kept(self, value: float) -> None:
        parts = self._kept_by_label()
        for label in self.of_operations:
            if (count := max(round(value), self.picks[label])) < len(self._places.get(label, self.logits[label])):
                logits = self.logits[label].detach().masked_fill(~parts[label], -torch.inf)
                parts[label][logits.argsort(descending=True, stable=True)[count:]] = False
        self._find_places()

    def _kept_by_label(self) -> dict[str, Tensor]:
        return dict(zip(self.logits, self.kept.split(list(map(len, self.logits.values()))), strict=True))

    def _find_places(self) -> None:
        self._places = {label: kept.nonzero().flatten() for label, kept in self._kept_by_label().items() if not kept.all()}


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

    def uniform(self, like: Tensor) -> Tensor:
        """Return uniform noise in [-1, 1), of the shape, dtype and device of ``like``."""
        return to_device(torch.from_numpy(self._random.uniform(-1, 1, tuple(like.shape))).to(like.dtype), like.device)

    def dirichlet(self, concentration: Tensor) -> Tensor:
        """Return a sample of ``Dirichlet(concentration)`` with its pathwise gradient, drawn on the CPU, which waits for a GPU."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self._random.integers(2**63)))
            return Dirichlet(concentration.cpu(), validate_args=False).rsample().to(concentration.device)

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
    logits: Tensor,
    draw: Draw | None = None,
    picks: int = 1,
    *,
    temperature: Temperature = 1.0,
    final_temperature: Temperature = 0.03,
    hard: bool = False,
) -> Tensor:
    """``softmax((alpha + G) / T)`` with Gumbel noise G, drawn anew in every pass (SNAS, Xie et al. 2019, eq. 5).

    The largest of ``alpha + G`` is that of candidate i with probability ``softmax(alpha)_i``, and a low T makes the sample
    nearly one-hot. Without a draw it is ``softmax(alpha)``, the distribution itself.

    Args:
        logits: alpha of one choice.
        draw: of this pass.
        picks: how many candidates the choice keeps.
        temperature: T in the first epoch, from which it falls linearly.
        final_temperature: what T falls to; in the last epoch it is one epoch's fall above it. SNAS's public code has this fall
            over a fixed 150 epochs, off by default.
        hard: the heaviest candidates of the sample have a weight of 1 and the others of 0, with the gradient of the sample (GDAS,
            Dong & Yang 2019); a pass without a gradient of alpha runs these alone, for which a GPU is waited for.
    """
    if draw is None:
        return logits.softmax(dim=-1)
    current = final_temperature + (1 - draw.progress) * (temperature - final_temperature)
    sample = ((logits + draw.gumbel(logits)) / current).softmax(dim=-1)
    if not hard:
        return sample
    heaviest = torch.zeros_like(sample, dtype=torch.bool).scatter(-1, sample.topk(picks).indices, True)
    return heaviest.to(sample) - sample.detach() + sample if torch.is_grad_enabled() else heaviest.cpu()


def concentration(logits: Tensor) -> Tensor:
    """``elu(alpha) + 1``, above 0 (DrNAS, Chen et al. 2021)."""
    return F.elu(logits) + 1


@RELAXATIONS.register()
def dirichlet(logits: Tensor, draw: Draw | None = None) -> Tensor:
    """A sample of ``Dirichlet(elu(alpha) + 1)`` in every pass, with its pathwise gradient (DrNAS, Chen et al. 2021).

    Without a draw it is the mean of the distribution. A common shift of all logits changes both.
    """
    if draw is not None:
        return draw.dirichlet(concentration(logits))
    # By its logarithm: in single precision elu(alpha) + 1 is 0 from alpha = -18 on.
    return torch.where(logits > 0, logits.clamp_min(0).log1p(), logits).softmax(dim=-1)


@RELAXATIONS.register()
def sigmoid(logits: Tensor) -> Tensor:
    """``sigmoid(alpha)``, each candidate by itself: weights do not sum to 1 (FairDARTS, Chu et al. 2020)."""
    return logits.sigmoid()


@RELAXATIONS.register()
def uniform_path(logits: Tensor, draw: Draw | None = None, picks: int = 1) -> Tensor:
    """A mask of the candidates to run, drawn uniformly in every pass, whatever alpha is (Li & Talwalkar 2019, weight sharing).

    Bool ``[number of candidates]`` on the CPU, with as many true as the choice keeps: mixed operations run these alone, with a
    weight of 1, so that a pass is one of the derived network. Alpha has no gradient, and takes no steps. Without a draw it is
    ``softmax(alpha)``.
    """
    return logits.detach().softmax(dim=-1) if draw is None else draw.mask(len(logits), picks)
