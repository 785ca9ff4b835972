"""The DLSR search space: operations of the cells, and links between them (Huang et al. 2021, arXiv 2105.03939).

Cell level: 3 labelled choices of 9 candidates, shared by all cells. Network level: each cell from the third on chooses two
inputs among the outputs of all earlier cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from sr_nas.contracts import CostSite, Weights, keep_strongest
from sr_nas.genotype import Choice, Genotype
from sr_nas.networks.dlsr import DLSR, DLSR_CANDIDATES, OPERATIONS, Cells, DLSRCell, DLSRFrame, Features, input_choices
from sr_nas.ops.fused import MIXED_OPS, Execution
from sr_nas.ops.mixed import MixedOp, PartialChannel, check_candidates, checkpointed, inherited_tensors
from sr_nas.registry import SPACES


@SPACES.register("DLSR")
class DLSRSpace(DLSRFrame):
    """DLSR supernet. With nine candidates and six cells it holds 9^3 * 3 * 6 * 10 = 131,220 networks.

    Args:
        scale: upscaling factor.
        nf: feature channels.
        num_cells: number of cells; all share one alpha per operation.
        candidates: names to choose operations from; ``None`` for all of them.
        partial_channel: K of the mixed operation; must divide nf.
        checkpointing: compute cells again in the backward pass, which takes longer and less memory.
        execution: how mixed operations run: candidates one at a time, or together, which is faster and rounds otherwise.

    Raises:
        ValueError: an unknown candidate, fewer than two, or a K that does not divide nf.
    """

    arch = DLSR.arch

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
        self.check(nf=nf, candidates=candidates, partial_channel=partial_channel)
        self.candidates = tuple(candidates or DLSR_CANDIDATES.names())
        builders = {name: DLSR_CANDIDATES.get(name) for name in self.candidates}
        inputs = input_choices(num_cells)
        self._mixed_op = mixed_op = MIXED_OPS[execution]
        self._checkpointing = checkpointing
        super().__init__(
            scale,
            nf,
            num_cells,
            lambda _, channels: mixed_op(builders, channels, channels, partial_channel),
            lambda label: len(inputs[label].candidates),
        )

    @staticmethod
    def check(nf: int = 48, candidates: list[str] | None = None, partial_channel: int = 1, **_: Any) -> None:
        """Refuse combinations that no type excludes."""
        if nf % partial_channel:
            raise ValueError(f"partial_channel {partial_channel} must divide nf = {nf}")
        check_candidates(DLSR_CANDIDATES, candidates)

    def choices(self) -> dict[str, Choice]:
        """``op1`` to ``op3``: one operation each; ``inputs3`` and on: two earlier cells each."""
        return {label: Choice(self.candidates) for label in OPERATIONS} | input_choices(self.num_cells)

    def forward(self, x: Tensor, weights: Weights) -> Tensor:
        """Upscale ``[N, 3, H, W]`` RGB in 0..1 with the given candidate weights per label."""
        own_cells = cast("Iterable[DLSRCell]", self.cells)
        own_weights = [weights[label] for label in OPERATIONS]
        if self._checkpointing:
            runs = [partial(self._run_again, cell, own_weights) for cell in own_cells]
            return self.reconstruct(x, runs, partial(self._weighted, weights))
        ops = cast("list[MixedOp]", [op for cell in own_cells for op in cell.ops])
        bound = self._mixed_op.bind(ops, own_weights * self.num_cells)
        each = zip(*[iter(bound)] * len(OPERATIONS), strict=True)
        cells = [partial(cell.run, ops=own) for cell, own in zip(own_cells, each, strict=True)]
        return self.reconstruct(x, cells, partial(self._weighted, weights))

    def _run_again(self, cell: DLSRCell, weights: Sequence[Tensor], x: Tensor) -> Tensor:
        return checkpointed(cell, self._run_cell, x, *weights)

    def _run_cell(self, cell: DLSRCell, x: Tensor, *weights: Tensor) -> Tensor:
        return cell.run(x, self._mixed_op.bind(cast("list[MixedOp]", list(cell.ops)), weights))

    @staticmethod
    def _weighted(weights: Weights, label: str, outputs: list[Tensor]) -> list[Tensor]:
        return [weight * output for weight, output in zip(weights[label], outputs, strict=True)]

    def decode(self, weights: Weights) -> Genotype:
        """Keep the heaviest candidate of every position, and the two heaviest inputs of every cell."""
        return keep_strongest(self.arch, self.choices(), weights)

    def derive(self, genotype: Genotype) -> DLSR:
        """Build the plain network of a genotype."""
        return DLSR(self.scale, self.nf, self.num_cells, genotype)

    def inherited(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return the tensors that fit the derived network; of a join, the columns of the inputs kept, as if weighed by 1.

        With K > 1 the candidates' do not fit.
        """
        chosen = {f"ops.{index}.candidates.{genotype[label][0]}.": f"ops.{index}." for index, label in enumerate(OPERATIONS)}
        found = inherited_tensors(self, self.derive(genotype), chosen)
        for label, choice in input_choices(self.num_cells).items():
            columns = self.joins[label].weight.split(self.nf, dim=1)  # type: ignore[operator]
            kept = [columns[choice.candidates.index(name)] for name in genotype[label]]
            found[f"joins.{label}.weight"] = torch.cat(kept, dim=1)
        return found

    def cost_sites(self) -> dict[str, tuple[CostSite, ...]]:
        """Each operation, once per cell. All inputs cost the same, whichever are kept, and so have no site."""
        site = CostSite(self._candidate, self.nf, count=self.num_cells)
        return dict.fromkeys(OPERATIONS, (site,))

    def _candidate(self, name: str) -> Any:
        return DLSR_CANDIDATES.get(name)(self.nf, self.nf)
