"""Interfaces between rooms: networks and their drawings, search spaces, batch streams."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from torch import Tensor, nn

from sr_nas.genotype import Choice, Choices, Genotype

Module = TypeVar("Module", bound=nn.Module)
Weights = Mapping[str, Tensor]
"""label -> relaxed weights of its candidates, shape [number of candidates]; most relaxations give a sum of 1."""


@dataclass(frozen=True)
class CostSite:
    """A position in the derived network that a choice fills; the cost of a candidate is measured there.

    Attributes:
        build: candidate name -> the module of the derived network, with full channels.
        channels: input channels of that module.
        downscale: its input is this many times smaller, per side, than the network's.
        count: how many such positions the network has.
    """

    build: Callable[[str], nn.Module]
    channels: int
    downscale: int = 1
    count: int = 1


CostSites = tuple[CostSite, ...] | Mapping[str, tuple[CostSite, ...]]
"""Positions of a label's candidate, or by name of the width those in a network of that width."""


@dataclass(frozen=True)
class Latency:
    """Latency of the networks of a space on one device, as ``tools/latency.py`` measures it, in milliseconds.

    Attributes:
        fixed: of every network, besides its candidates.
        of_candidates: label -> candidate name -> what it adds; the cheapest of each label adds 0. Where the width is chosen,
            label -> width -> candidate name.
    """

    fixed: float
    of_candidates: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where a candidate stands in a network when its cost is measured; by default, a whole network.

    Attributes:
        channels: input channels.
        downscale: the input is this many times smaller, per side, than the network's.
        scale: upscaling factor of the network, ``None`` for a classifier.
        label: of the choice; ``""`` for a whole network.
        name: of the candidate.
        width: of the network, where it is chosen.
        latency: table of the device, where there is one.
    """

    channels: int = 3
    downscale: int = 1
    scale: int | None = None
    label: str = ""
    name: str = ""
    width: str = ""
    latency: Latency | None = None


Look = Literal["searched", "fixed", "faint", "data"]
"""Selected by a genotype; the same in all networks of the space; left out by the genotype; no operation, such as an image."""


@dataclass(frozen=True)
class Node:
    """An operation in a :class:`Diagram`.

    Attributes:
        text: its name; ``"+"`` is drawn as a circle.
        note: in smaller letters below the name, such as its channels.
        look: what its box looks like.
        width: of its box in a column, 1 if the longest text there just fits.
    """

    text: str
    note: str = ""
    look: Look = "fixed"
    width: float = 1.0


@dataclass(frozen=True)
class Edge:
    """An arrow in a :class:`Diagram` from one node to a later one: straight to the next, else along a lane beside the nodes.

    Attributes:
        source, target: names of the nodes.
        text: an operation or a number of channels.
        look: of the text.
        side: of the lane: 1 for right of a column or below a row, -1 for the other.
    """

    source: str
    target: str
    text: str = ""
    look: Look = "data"
    side: Literal[-1, 1] = 1


@dataclass(frozen=True)
class Diagram:
    """Nodes in a column, or in a row, and the arrows between them: what a drawing shows of a network.

    Attributes:
        title: what it is.
        nodes: name -> node, in order.
        edges: all arrows.
        note: a remark below the title.
        in_a_row: whether the nodes are in a row.
    """

    title: str
    nodes: Mapping[str, Node]
    edges: Sequence[Edge]
    note: str = ""
    in_a_row: bool = False


def arrows(*names: str) -> list[Edge]:
    """Return arrows from each of the nodes to the next."""
    return [Edge(source, target) for source, target in pairwise(names)]


class Stream(Protocol):
    """Endless batches; after loading a state it goes on from where the state was taken."""

    def next(self) -> tuple[Tensor, ...]:
        """Return the next batch, (input, target)."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Network(nn.Module):
    """A network that people train and ship.

    Attributes:
        task: name of what it is for (:data:`sr_nas.registry.TASKS`).
        arch: its registered name.
        genotype: the choices it was built from.
    """

    task: ClassVar[str]
    arch: str
    genotype: Genotype

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""

    def drawing(self, genotype: Genotype) -> list[Diagram]:
        """What to draw of the network that a genotype gives in this size; nothing where that is not described."""
        return []


class SRNetwork(Network):
    """A network that upscales by ``scale``: RGB in 0..1, ``[N, 3, H, W]``, to ``[N, 3, scale*H, scale*W]``."""

    task: ClassVar[str] = "super-resolution"
    scale: int


class Classifier(Network):
    """A network that classifies: normalised RGB, ``[N, 3, H, W]``, to logits, ``[N, num_classes]``.

    In training mode it may return ``(logits, logits of an auxiliary head)``.

    Attributes:
        input_size: side in pixels of the images it is made for.
        drop_path: probability of leaving out an operation in training mode, for a trainer to set; ``None`` where it never does.
    """

    task: ClassVar[str] = "classification"
    num_classes: int
    input_size: int
    drop_path: float | None = None


class SearchSpace(Protocol):
    """A supernet as the searcher sees it: a module with labelled choices, whose alpha lives outside of it.

    A label used in several places is a shared alpha. A space of which networks lack some choices, or some candidates ever, has
    ``groups()``, name -> (labels, how many of them a network has), and ``never_kept``, the names of such candidates. Where
    ``none`` is one of them, ``decode`` makes an edge ``none`` whose operations all weigh 0.
    """

    arch: str

    def choices(self) -> dict[str, Choice]:
        """Every label with its candidates, in a fixed order."""

    def __call__(self, x: Tensor, weights: Weights) -> Tensor:
        """Run the supernet on a batch, with these weights of the candidates."""

    def decode(self, weights: Weights) -> Genotype:
        """Return the genotype that these weights prefer."""

    def derive(self, genotype: Genotype) -> Network:
        """Build the plain network of a genotype, freshly initialised."""

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return those of the supernet's tensors that fit the derived network, under the derived network's names."""

    def cost_sites(self) -> Mapping[str, CostSites]:
        """Positions of each label's candidate in the derived network; labels without a cost of their own are absent.

        Where the space has a choice :data:`~sr_nas.genotype.WIDTH`, the positions of other labels are given for each width.
        """


def reparameterized(network: Module, mark: str = "reparameterize") -> Module:
    """Return a copy in which every module with a method ``reparameterize()`` is replaced by the module that it returns.

    That module computes the same in evaluation mode at less cost, such as one convolution for the branches of a RepVGG block
    (Ding et al. 2021). Export, inference and counting use networks in this form; it is not for training. With a ``mark`` only
    modules with an attribute of this name are: by ``"training_only"`` those of ``train.reparam``, which no network is made of.
    """
    return cast(Module, _reparameterize(copy.deepcopy(network), mark))


def _reparameterize(module: nn.Module, mark: str) -> nn.Module:
    if callable(convert := getattr(module, "reparameterize", None)) and hasattr(module, mark):
        return cast(nn.Module, convert()).train(module.training)
    for name, child in module._modules.items():  # named_children() has a shared one once
        if child is not None:
            setattr(module, name, _reparameterize(child, mark))
    return module


def keep_strongest(arch: str, choices: Choices, weights: Weights) -> Genotype:
    """Decode by keeping the ``picks`` heaviest candidates of every choice (DARTS, eq. 2; ties go to the first)."""
    picks = []
    for label, choice in choices.items():
        heaviest = weights[label].detach().argsort(descending=True, stable=True)[: choice.picks].tolist()
        picks.append((label, tuple(choice.candidates[index] for index in heaviest)))
    return Genotype(arch, tuple(picks))
