"""Base class of the search spaces of super-resolution: supernets whose blocks share labelled mixed operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from sr_nas.contracts import CostSite, CostSites, SRNetwork, Weights, keep_strongest
from sr_nas.genotype import Choice, Genotype
from sr_nas.ops.fused import MIXED_OPS, Execution
from sr_nas.ops.mixed import MixedOp, check_candidates, checkpointed, inherited_tensors
from sr_nas.registry import Registry


class ChoiceSpace(nn.Module):
    """Supernet whose blocks run mixed operations in order; all blocks share one alpha per label, or each has its own.

    A subclass also inherits the frame of its network, a module with ``blocks``, each with ``ops`` and ``run(x, ops)``,
    ``frame_settings()`` and ``reconstruct(x, blocks)``. It passes the builder of :meth:`mixed_operations` to the frame, which
    builds its operations with it, and sets the class attributes.

    Attributes:
        network: the derived network, built from ``frame_settings()`` and a genotype.
        registry: candidates by name: functions of input and output channels.
        operations: names of the default candidates.
        labels: labels of the operations of a block, in the order in which the block runs them, or of those of all blocks.
    """

    network: ClassVar[type[Any]]
    registry: ClassVar[Registry]
    operations: ClassVar[tuple[str, ...]]
    labels: tuple[str, ...]
    blocks: Any
    reconstruct: Callable[..., Tensor]
    frame_settings: Callable[[], dict[str, Any]]

    @property
    def arch(self) -> str:
        """Registered name of the derived network."""
        return str(self.network.arch)

    @classmethod
    def check(cls, candidates: list[str] | None = None, **_: Any) -> None:
        """Raise ValueError for options that no type excludes."""
        check_candidates(cls.registry, candidates)

    def mixed_operations(
        self, candidates: list[str] | None, partial_channel: int, checkpointing: bool, execution: Execution
    ) -> Callable[[str, int, int], MixedOp]:
        """Return the builder of mixed operations, (label, input channels, output channels) -> module.

        The arguments are the options of a space; ``candidates`` is ``None`` for the default ones.
        """
        self.candidates, self.checkpointing = tuple(candidates or self.operations), checkpointing
        self.mixed_op = kind = MIXED_OPS[execution]
        builders = {name: self.registry.get(name) for name in self.candidates}
        return lambda _, in_channels, out_channels: kind(builders, in_channels, out_channels, partial_channel)

    def choices(self) -> dict[str, Choice]:
        """One operation per label."""
        return {label: Choice(self.candidates) for label in self.labels}

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 with the given candidate weights per label."""
        return self.reconstruct(x, self.bind(weights))

    def bind(self, weights: Weights) -> list[Callable[[Tensor], Tensor]]:
        """Return the blocks as functions of their input, with the given weights in their mixed operations."""
        of_ops = cycle(self.weights_of_ops(weights))
        if self.checkpointing:
            return [partial(self._recompute, block, list(islice(of_ops, len(block.ops)))) for block in self.blocks]
        ops = [op for block in self.blocks for op in block.ops]
        functions = iter(self.mixed_op.bind(ops, list(islice(of_ops, len(ops)))))
        return [partial(block.run, ops=list(islice(functions, len(block.ops)))) for block in self.blocks]

    def weights_of_ops(self, weights: Weights) -> list[Tensor]:
        """Return what each label's mixed operations are bound with, in the order of the labels."""
        return [weights[label] for label in self.labels]

    def _recompute(self, block: Any, weights: Sequence[Tensor], x: Tensor) -> Tensor:
        def run(block: Any, x: Tensor, *weights: Tensor) -> Tensor:
            return cast(Tensor, block.run(x, self.mixed_op.bind(list(block.ops), weights)))

        return checkpointed(block, run, x, *weights)

    def decode(self, weights: Weights) -> Genotype:
        """Keep the heaviest candidates of every choice."""
        return keep_strongest(self.arch, self.choices(), weights)

    def derive(self, genotype: Genotype) -> SRNetwork:
        """Build the plain network of a genotype."""
        return cast(SRNetwork, self.network(**self.frame_settings(), genotype=genotype))

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not."""
        names = {f"{path}.candidates.{genotype[label][0]}.": f"{path}." for path, label, _ in self._places()}
        return inherited_tensors(self, self.derive(genotype), names)

    def cost_sites(self) -> Mapping[str, CostSites]:
        """Each operation with its channels, once per block; choices of inputs cost the same whatever they keep.

        Labels with the same channels share a site, so that its candidates are measured once.
        """
        sites: dict[tuple[int, int], CostSite] = {}
        result: dict[str, CostSites] = {}
        for _, label, op in islice(self._places(), len(self.labels)):
            channels = op.in_channels, op.out_channels
            site = CostSite(partial(self._candidate, *channels), op.in_channels, count=len(self.blocks))
            result[label] = (sites.setdefault(channels, site),)
        return result

    def _candidate(self, in_channels: int, out_channels: int, name: str) -> nn.Module:
        return cast(nn.Module, self.registry.get(name)(in_channels, out_channels))

    def _places(self) -> Iterator[tuple[str, str, MixedOp]]:
        """Path, label and module of every mixed operation, block by block."""
        ops = ((path, module) for path, module in self.named_modules() if isinstance(module, MixedOp))
        for (path, op), label in zip(ops, cycle(self.labels), strict=False):
            yield path, label, op
