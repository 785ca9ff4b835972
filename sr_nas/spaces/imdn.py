"""The IMDN search space: 4 labelled choices of 12 candidates, shared by all blocks (SA-DARTS, section 4.4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from torch import Tensor

from sr_nas.contracts import CostSite, Weights, keep_strongest
from sr_nas.genotype import Choice, Genotype
from sr_nas.networks.imdn import IMDN, IMDN_CANDIDATES, LABELS, Blocks, Features, IMDBlock, IMDNFrame, conv_channels
from sr_nas.ops.fused import MIXED_OPS, Execution
from sr_nas.ops.mixed import MixedOp, PartialChannel, check_candidates, checkpointed, inherited_tensors
from sr_nas.registry import SPACES


@SPACES.register("IMDN")
class IMDNSpace(IMDNFrame):
    """IMDN supernet. With all twelve candidates it holds 12^4 = 20,736 networks.

    Args:
        scale: upscaling factor.
        nf: feature channels.
        num_blocks: number of blocks; all share one alpha per label.
        candidates: names to choose from at every position; ``None`` for all of them.
        partial_channel: K of the mixed operation; must divide nf/4.
        checkpointing: compute blocks again in the backward pass, which takes longer and less memory.
        execution: how mixed operations run: candidates one at a time, or together, which is faster and rounds otherwise.

    Raises:
        ValueError: an unknown candidate, fewer than two, or a K that does not divide nf/4.
    """

    arch = IMDN.arch

    def __init__(
        self,
        scale: int = 4,
        nf: Features = 64,
        num_blocks: Blocks = 6,
        candidates: list[str] | None = None,
        partial_channel: PartialChannel = 1,
        checkpointing: bool = False,
        execution: Execution = "fused",
    ) -> None:
        self.check(nf=nf, candidates=candidates, partial_channel=partial_channel)
        self.candidates = tuple(candidates or IMDN_CANDIDATES.names())
        builders = {name: IMDN_CANDIDATES.get(name) for name in self.candidates}
        self._mixed_op = mixed_op = MIXED_OPS[execution]
        self._checkpointing = checkpointing
        super().__init__(scale, nf, num_blocks, lambda _, read, written: mixed_op(builders, read, written, partial_channel))

    @staticmethod
    def check(nf: int = 64, candidates: list[str] | None = None, partial_channel: int = 1, **_: Any) -> None:
        """Refuse combinations that no type excludes."""
        if (nf // 4) % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide nf/4 = {nf // 4}, the channels that a block distils")
        check_candidates(IMDN_CANDIDATES, candidates)

    def choices(self) -> dict[str, Choice]:
        """``conv1`` to ``conv4``: one operation each."""
        return {label: Choice(self.candidates) for label in LABELS}

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 with the given candidate weights per label."""
        own_weights = [weights[label] for label in LABELS]
        if self._checkpointing:
            return self.reconstruct(x, [partial(self._run_again, block, own_weights) for block in self.blocks])
        ops = cast("list[MixedOp]", [op for block in self.blocks for op in block.convs])
        bound = self._mixed_op.bind(ops, own_weights * self.num_blocks)
        each = zip(*[iter(bound)] * len(LABELS), strict=True)
        return self.reconstruct(x, [partial(block.distill, convs=own) for block, own in zip(self.blocks, each, strict=True)])

    def _run_again(self, block: IMDBlock, weights: Sequence[Tensor], x: Tensor) -> Tensor:
        return checkpointed(block, self._run_block, x, *weights)

    def _run_block(self, block: IMDBlock, x: Tensor, *weights: Tensor) -> Tensor:
        return block.distill(x, self._mixed_op.bind(cast("list[MixedOp]", list(block.convs)), weights))

    def decode(self, weights: Weights) -> Genotype:
        """Keep the heaviest candidate of every position."""
        return keep_strongest(self.arch, self.choices(), weights)

    def derive(self, genotype: Genotype) -> IMDN:
        """Build the plain network of a genotype."""
        return IMDN(self.scale, self.nf, self.num_blocks, genotype)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that keep their shape in the derived network; with K > 1 the candidates' do not."""
        chosen = {f"convs.{index}.candidates.{genotype[label][0]}.": f"convs.{index}." for index, label in enumerate(LABELS)}
        return inherited_tensors(self, self.derive(genotype), chosen)

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each label's candidate at its own channel counts, once per block."""
        sites: dict[str, tuple[CostSite, ...]] = {}
        for label, channels in zip(LABELS, conv_channels(self.nf), strict=True):
            sites[label] = (CostSite(partial(self._candidate, channels), channels[0], count=self.num_blocks),)
        return sites

    @staticmethod
    def _candidate(channels: tuple[int, int], name: str) -> Any:
        return IMDN_CANDIDATES.get(name)(*channels)
