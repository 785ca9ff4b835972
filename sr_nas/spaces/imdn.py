"""IMDN search space (SA-DARTS, section 4.4.1): four labelled choices of twelve candidates, shared by all blocks."""

from __future__ import annotations

from typing import Any

from sr_nas.networks.imdn import IMDN, IMDN_CANDIDATES, IMDN_OPERATIONS, LABELS, Blocks, Features, IMDNFrame
from sr_nas.ops.fused import Execution
from sr_nas.ops.mixed import PartialChannel
from sr_nas.registry import SPACES
from sr_nas.spaces.base import ChoiceSpace


@SPACES.register("IMDN")
class IMDNSpace(ChoiceSpace, IMDNFrame):
    """IMDN supernet: four labelled choices, shared by all blocks; with the paper's twelve candidates 12^4 = 20,736 networks.

    Args:
        scale: upscaling factor.
        nf: feature channels.
        num_blocks: number of blocks.
        candidates: names to choose from at every position; ``None`` for the paper's twelve.
        partial_channel: K of the mixed operation: a share of 1/K of the channels goes through it; must divide nf/4.
        checkpointing: compute blocks again in the backward pass, which takes longer and less memory.
        execution: how mixed operations run: candidates one at a time, or together, which is faster and rounds otherwise.
    """

    network, registry, operations, labels = IMDN, IMDN_CANDIDATES, IMDN_OPERATIONS, LABELS

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
        self.check(candidates, nf, partial_channel)
        build = self.mixed_operations(candidates, partial_channel, checkpointing, execution)
        super().__init__(scale, nf, num_blocks, build)

    @classmethod
    def check(cls, candidates: list[str] | None = None, nf: int = 64, partial_channel: int = 1, **_: Any) -> None:
        super().check(candidates)
        if (nf // 4) % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide nf/4 = {nf // 4}, the channels that a block distils")
