"""The cell of the DARTS space (Liu et al. 2019), whatever its edges compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sr_nas.networks.darts_genotype import FIRST_NODE, edges
from sr_nas.ops.classification_candidates import FactorizedReduce, relu_conv_bn

BuildEdge = Callable[[str, int, int, int, int], nn.Module | None]
"""(kind of cell, node, what it reads, channels, stride) -> the module on that edge; ``None`` for no edge."""

RunEdge = Callable[[str, int, int, nn.Module, Tensor], Tensor]
"""(kind of cell, node, what it reads, module, its input) -> what the node adds up."""


class DARTSCell(nn.Module):
    """A cell: two inputs brought to its channels, nodes that add up edges from all before them, the last ones joined.

    Args:
        kind: ``"normal"``, or ``"reduce"`` where edges from the cell's inputs have stride 2.
        reads: channels of the outputs of the cell before last and of the last cell.
        channels: of every node.
        after_reduction: the first input is twice as large, a side, as the second.
        nodes: number of nodes.
        multiplier: how many nodes are joined.
        affine: whether BatchNorms have a scale and a shift.
        build_edge: what is on an edge.
    """

    def __init__(
        self,
        kind: str,
        reads: tuple[int, int],
        channels: int,
        after_reduction: bool,
        nodes: int,
        multiplier: int,
        affine: bool,
        build_edge: BuildEdge,
    ) -> None:
        super().__init__()
        self.kind, self.channels, self.nodes, self.multiplier = kind, channels, nodes, multiplier
        first = FactorizedReduce if after_reduction else relu_conv_bn
        self.preprocess0 = first(reads[0], channels, affine=affine)
        self.preprocess1 = relu_conv_bn(reads[1], channels, affine=affine)
        self.edges = nn.ModuleDict()
        for node, source in edges(nodes):
            built = build_edge(kind, node, source, channels, self.stride(source))
            if built is not None:
                self.edges[edge_key(node, source)] = built

    def stride(self, source: int) -> int:
        """Stride of an edge from ``source``."""
        return 2 if self.kind == "reduce" and source < FIRST_NODE else 1

    def run(self, before: Tensor, last: Tensor, run_edge: RunEdge) -> Tensor:
        """Map the outputs of the cell before last and of the last cell to ``[N, multiplier * channels, H', W']``."""
        states = [self.preprocess0(before), self.preprocess1(last)]
        for node in range(FIRST_NODE, FIRST_NODE + self.nodes):
            first, *rest = (
                run_edge(self.kind, node, source, self.edges[edge_key(node, source)], state)
                for source, state in enumerate(states)
                if edge_key(node, source) in self.edges
            )
            for term in rest:
                first = first + term
            states.append(first)
        return torch.cat(states[-self.multiplier :], dim=1)


def edge_key(node: int, source: int) -> str:
    """Name of an edge's module in :attr:`DARTSCell.edges`."""
    return f"{node}_{source}"
