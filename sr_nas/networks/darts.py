"""The networks of the DARTS space (Liu et al. 2019) for CIFAR and ImageNet, with any genotype."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from sr_nas.contracts import Classifier
from sr_nas.genotype import Choice, is_genotype_path
from sr_nas.networks.darts_frame import (
    Cells,
    Channels,
    Classes,
    DARTSFrame,
    Multiplier,
    Nodes,
    Stem,
    StemMultiplier,
    check_multiplier,
)
from sr_nas.networks.darts_genotype import ARCH, node_choices, operation_and_source, read_cells
from sr_nas.ops.auxiliary_head import AuxiliaryHead
from sr_nas.ops.classification_candidates import DARTS_CANDIDATES
from sr_nas.ops.drop_path import drop_path
from sr_nas.options.genotypes import GenotypeSource
from sr_nas.registry import CLASSIFIERS

PUBLISHED = "DARTS_V2"

Auxiliary = Annotated[
    bool, Field(description="a second classifier at the second reduction, for training; published counts leave it out")
]


@CLASSIFIERS.register()
class DARTS(DARTSFrame, Classifier):
    """A network of the DARTS space with the cells of a genotype; by default that of DARTS_V2 for CIFAR-10.

    In training mode with an auxiliary head it returns ``(logits, auxiliary logits)``, else the logits.

    Args:
        stem: ``"cifar"``, or ``"imagenet"``, which the published networks have with C 48, 14 cells and 1000 classes.
        channels: C, of the first cells.
        num_cells: number of cells.
        num_classes: number of logits.
        genotype: cells, in any form that :func:`sr_nas.networks.darts_genotype.read_cells` takes: the name of a published one,
            the text of public code, or two picks for each node of a normal and a reduction cell.
        auxiliary: whether it has an auxiliary head.
        nodes: nodes of a cell.
        multiplier: how many nodes, the last, are a cell's output.
        stem_multiplier: channels of the CIFAR stem, in C.

    Attributes:
        drop_path: probability that an operation, other than an identity, is left out for a sample in training mode. A trainer
            sets it, as an epoch begins; 0 at first.

    Raises:
        GenotypeError: a genotype that this network does not have.
        ValueError: more nodes joined than there are.
    """

    arch = ARCH

    def __init__(
        self,
        stem: Stem = "cifar",
        channels: Channels = 36,
        num_cells: Cells = 20,
        num_classes: Classes = 10,
        genotype: GenotypeSource = PUBLISHED,
        auxiliary: Auxiliary = False,
        nodes: Nodes = 4,
        multiplier: Multiplier = 4,
        stem_multiplier: StemMultiplier = 3,
    ) -> None:
        picked = read_cells(genotype, nodes, multiplier)
        kept = {
            (label, source): operation
            for label, names in picked.picks
            for operation, source in (operation_and_source(name) for name in names)
        }

        def build_edge(kind: str, node: int, source: int, width: int, stride: int) -> nn.Module | None:
            operation = kept.get((f"{kind}{node}", source))
            return None if operation is None else DARTS_CANDIDATES.get(operation)(width, stride, True)

        super().__init__(stem, channels, num_cells, num_classes, nodes, multiplier, stem_multiplier, True, build_edge)
        self.genotype = picked
        self.input_size = 32 if stem == "cifar" else 224
        self.drop_path: float = 0.0
        self.auxiliary: AuxiliaryHead | None = None
        if auxiliary:
            # After two reductions; the ImageNet network was trained with 7x7 there, and without the last BatchNorm.
            on_cifar, width = stem == "cifar", multiplier * 4 * channels
            self.auxiliary = AuxiliaryHead(width, num_classes, stride=3 if on_cifar else 2, last_norm=on_cifar)

    @staticmethod
    def choices(nodes: int = 4) -> dict[str, Choice]:
        """``normal2`` and on, ``reduce2`` and on: two reads each, such as ``sep_conv_3x3~0``."""
        return node_choices(nodes)

    @staticmethod
    def check(genotype: Any = PUBLISHED, nodes: int = 4, multiplier: int = 4, **_: Any) -> None:
        """Refuse other genotypes than :func:`read_cells` takes; a path is left for when files are looked at."""
        check_multiplier(nodes, multiplier)
        if not is_genotype_path(genotype):
            read_cells(genotype, nodes, multiplier)

    def settings(self) -> dict[str, Any]:
        """The arguments that build this network again, JSON-ready."""
        return self.frame_settings() | {
            "auxiliary": self.auxiliary is not None,
            "genotype": self.genotype.to_json()["genotype"],
        }

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[N, 3, H, W]`` to logits ``[N, num_classes]``; with those of the auxiliary head in training mode."""
        logits, features = self.classify(x, self._run_edge)
        if self.training and self.auxiliary is not None:
            return logits, self.auxiliary(features)
        return logits

    def _run_edge(self, kind: str, node: int, source: int, module: nn.Module, x: Tensor) -> Tensor:
        if not self.training or isinstance(module, nn.Identity):
            return module(x)
        return drop_path(module(x), self.drop_path)
