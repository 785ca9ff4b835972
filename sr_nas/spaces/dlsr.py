"""DLSR search space (Huang et al. 2021, arXiv 2105.03939): operations of the cells, and links between cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sr_nas.contracts import Weights
from sr_nas.genotype import Choice, Genotype
from sr_nas.networks.dlsr import DLSR, DLSR_CANDIDATES, DLSR_OPERATIONS, OPERATIONS, Cells, DLSRFrame, Features, input_choices
from sr_nas.ops.fused import Execution
from sr_nas.ops.mixed import PartialChannel
from sr_nas.registry import SPACES
from sr_nas.spaces.base import ChoiceSpace


@SPACES.register("DLSR")
class DLSRSpace(ChoiceSpace, DLSRFrame):
    """DLSR supernet. With nine candidates and six cells it holds 9^3 * 3 * 6 * 10 = 131,220 networks.

    Cell level: three labelled choices of operations, shared by all cells. Network level: each cell from the third on chooses two
    inputs among the outputs of all earlier cells.

    Args:
        scale: upscaling factor.
        nf: feature channels.
        num_cells: number of cells.
        candidates: names to choose operations from; ``None`` for the paper's nine.
        partial_channel: K of the mixed operation: a share of 1/K of the channels goes through it; must divide nf.
        checkpointing: compute cells again in the backward pass, which takes longer and less memory.
        execution: how mixed operations run: candidates one at a time, or together, which is faster and rounds otherwise.
    """

    network, registry, operations, labels = DLSR, DLSR_CANDIDATES, DLSR_OPERATIONS, OPERATIONS

    def __init__(
        self,
        scale: int = 2,
        nf: Features = 48,
        num_cells: Cells = 6,
        candidates: list[str] | None = None,
        partial_channel: PartialChannel = 1,
        checkpointing: bool = False,
        execution: Execution = "fused",
    ) -> None:
        self.check(candidates, nf, partial_channel)
        build = self.mixed_operations(candidates, partial_channel, checkpointing, execution)
        super().__init__(scale, nf, num_cells, build, joins_all=True)

    @classmethod
    def check(cls, candidates: list[str] | None = None, nf: int = 48, partial_channel: int = 1, **_: Any) -> None:
        super().check(candidates)
        if nf % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide nf = {nf}")

    def choices(self) -> dict[str, Choice]:
        """``op1`` to ``op3``: one operation each; ``inputs3`` and on: two earlier cells each."""
        return super().choices() | input_choices(self.num_cells)

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        def weighted(label: str, outputs: list[Tensor]) -> list[Tensor]:
            return [weight * output for weight, output in zip(weights[label], outputs, strict=True)]

        return self.reconstruct(x, self.bind(weights), weighted)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that fit the derived network; of a join, the columns of the selected inputs, as if weighed by 1."""
        tensors = super().inherited(genotype)
        for label, choice in input_choices(self.num_cells).items():
            columns = self.joins[label].weight.split(self.nf, dim=1)  # type: ignore[operator]
            selected = [columns[choice.candidates.index(name)] for name in genotype[label]]
            tensors[f"joins.{label}.weight"] = torch.cat(selected, dim=1)
        return tensors
