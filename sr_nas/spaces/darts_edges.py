"""The labelled edges of the DARTS space, and which operations may stand on each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sr_nas.errors import listing, nearest
from sr_nas.genotype import Choice
from sr_nas.networks.darts_genotype import KINDS, edges
from sr_nas.ops.classification_candidates import DARTS_CANDIDATES, DARTS_OPERATIONS
from sr_nas.ops.mixed import check_candidates

Candidates = Annotated[
    list[str] | dict[str, list[str]] | None,
    Field(description="operations to choose from on every edge, or a mapping label -> operations that names every edge"),
]


def edge_label(kind: str, node: int, source: int) -> str:
    """Label of the choice of an operation."""
    return f"{kind}{node}<-{source}"


def edge_labels(nodes: int) -> list[str]:
    """Labels of all edges, in order."""
    return [edge_label(kind, *edge) for kind in KINDS for edge in edges(nodes)]


def inputs_label(kind: str, node: int) -> str:
    """Label of the choice of a node's edges, where there is edge normalisation."""
    return f"{kind}{node}_edges"


def edge_choices(candidates: list[str] | dict[str, list[str]] | None, nodes: int) -> dict[str, Choice]:
    """Return label -> choice of an operation.

    Args:
        candidates: operations of all edges; or label -> operations, for every edge; ``None`` for the eight of the paper.
        nodes: nodes of a cell.

    Raises:
        ValueError: an unknown operation, fewer than two on an edge, an edge without any or one that does not exist.
    """
    labels = edge_labels(nodes)
    if not isinstance(candidates, dict):
        check_candidates(DARTS_CANDIDATES, candidates)
        return dict.fromkeys(labels, Choice(tuple(candidates or DARTS_OPERATIONS)))
    for label, names in candidates.items():
        if label not in labels:
            raise ValueError(f"candidates: there is no edge '{label}'{nearest(label, labels)} Known: {listing(labels)}.")
        check_candidates(DARTS_CANDIDATES, names)
    missing = [label for label in labels if label not in candidates]
    if missing:
        raise ValueError(f"candidates names no operations for {listing(missing)}")
    return {label: Choice(tuple(candidates[label])) for label in labels}
