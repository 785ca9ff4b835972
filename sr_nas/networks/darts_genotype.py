"""Genotypes of the DARTS space: two cells, whose nodes read two earlier ones each through an operation.

A node's picks are written ``sep_conv_3x3~0+skip_connect~1``, after the string form of NAS-Bench-201: operation, then what it
reads. 0 and 1 are the outputs of the cell before last and of the last cell, 2 and on the nodes of the cell itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sr_nas.genotype import Choice, Genotype, GenotypeError, genotype_from
from sr_nas.ops.classification_candidates import DARTS_CANDIDATES

ARCH = "DARTS"
KINDS = ("normal", "reduce")
FIRST_NODE = 2
READS = 2
"""How many earlier nodes a node reads."""

PUBLIC_FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"

PUBLISHED = {
    # Liu et al. 2019, first and second order.
    "DARTS_V1": "sep_conv_3x3~1+sep_conv_3x3~0, skip_connect~0+sep_conv_3x3~1, skip_connect~0+sep_conv_3x3~1,"
    "sep_conv_3x3~0+skip_connect~2, max_pool_3x3~0+max_pool_3x3~1, skip_connect~2+max_pool_3x3~0,"
    "max_pool_3x3~0+skip_connect~2, skip_connect~2+avg_pool_3x3~0",
    "DARTS_V2": "sep_conv_3x3~0+sep_conv_3x3~1, sep_conv_3x3~0+sep_conv_3x3~1, sep_conv_3x3~1+skip_connect~0,"
    "skip_connect~0+dil_conv_3x3~2, max_pool_3x3~0+max_pool_3x3~1, skip_connect~2+max_pool_3x3~1,"
    "max_pool_3x3~0+skip_connect~2, skip_connect~2+max_pool_3x3~1",
    # Xie et al. 2019.
    "SNAS": "sep_conv_3x3~0+sep_conv_3x3~1, skip_connect~0+dil_conv_3x3~1, skip_connect~1+skip_connect~0,"
    "skip_connect~0+sep_conv_3x3~1, max_pool_3x3~0+max_pool_3x3~1, max_pool_3x3~1+skip_connect~2,"
    "skip_connect~2+max_pool_3x3~1, max_pool_3x3~0+dil_conv_5x5~2",
    # Chen et al. 2019.
    "PDARTS": "skip_connect~0+dil_conv_3x3~1, skip_connect~0+sep_conv_3x3~1, sep_conv_3x3~1+sep_conv_3x3~3,"
    "sep_conv_3x3~0+dil_conv_5x5~4, avg_pool_3x3~0+sep_conv_5x5~1, sep_conv_3x3~0+dil_conv_5x5~2,"
    "max_pool_3x3~0+dil_conv_3x3~1, dil_conv_3x3~1+dil_conv_5x5~3",
    # Xu et al. 2020, searched on CIFAR-10 and on ImageNet.
    "PC_DARTS_cifar": "sep_conv_3x3~1+skip_connect~0, sep_conv_3x3~0+dil_conv_3x3~1, sep_conv_5x5~0+sep_conv_3x3~1,"
    "avg_pool_3x3~0+dil_conv_3x3~1, sep_conv_5x5~1+max_pool_3x3~0, sep_conv_5x5~1+sep_conv_5x5~2,"
    "sep_conv_3x3~0+sep_conv_3x3~3, sep_conv_3x3~1+sep_conv_3x3~2",
    "PC_DARTS_image": "skip_connect~1+sep_conv_3x3~0, sep_conv_3x3~0+skip_connect~1, sep_conv_3x3~1+sep_conv_3x3~3,"
    "sep_conv_3x3~1+dil_conv_5x5~4, sep_conv_3x3~0+skip_connect~1, dil_conv_5x5~2+max_pool_3x3~1,"
    "sep_conv_3x3~2+sep_conv_3x3~1, sep_conv_5x5~0+sep_conv_3x3~3",
}
"""Cells of papers, by the names that public code gives them."""


def edges(nodes: int) -> list[tuple[int, int]]:
    """(node, what it reads) of every edge of a cell: 14 for four nodes."""
    return [(node, source) for node in range(FIRST_NODE, FIRST_NODE + nodes) for source in range(node)]


def pick(operation: str, source: int) -> str:
    """The name of an edge that is kept."""
    return f"{operation}~{source}"


def operation_and_source(name: str) -> tuple[str, int]:
    """Take apart what :func:`pick` made."""
    operation, _, source = name.rpartition("~")
    return operation, int(source)


def node_choices(nodes: int) -> dict[str, Choice]:
    """``normal2``, ``normal3``, ..., ``reduce2``, ...: two of the earlier nodes, each through any operation but none."""
    operations = [name for name in DARTS_CANDIDATES.names() if name != "none"]
    return {
        f"{kind}{node}": Choice(tuple(pick(operation, source) for source in range(node) for operation in operations), READS)
        for kind in KINDS
        for node in range(FIRST_NODE, FIRST_NODE + nodes)
    }


def read_cells(source: Any, nodes: int, multiplier: int) -> Genotype:
    """Return the genotype that ``source`` states.

    Args:
        source: what :func:`sr_nas.genotype.genotype_from` takes; a name of :data:`PUBLISHED`; or the form of public code, as a
            text such as ``"Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=..., ...)"`` or as a
            mapping with its keys. A text is parsed and never run.
        nodes: nodes of a cell.
        multiplier: how many of them, the last, are a cell's output.

    Raises:
        GenotypeError: it is none of these, or does not fit such a cell; or a node reads one earlier node twice.
    """
    if isinstance(source, str):
        source = PUBLISHED.get(source.strip(), source)
        if "(" in source:
            source = _parsed(source)
    if isinstance(source, Mapping) and set(KINDS) <= set(source):
        source = _from_public(source, nodes, multiplier)
    genotype = genotype_from(source, ARCH, node_choices(nodes))
    for label, names in genotype.picks:
        if len({operation_and_source(name)[1] for name in names}) < READS:
            raise GenotypeError(f"{ARCH}.{label} reads {READS} different nodes; given: {' and '.join(names)}.")
    return genotype


def _parsed(text: str) -> dict[str, Any]:
    try:
        (statement,) = ast.parse(text.strip()).body
        call = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
        if not isinstance(call, ast.Call) or call.args or not ast.unparse(call.func).endswith("Genotype"):
            raise ValueError("a call of Genotype with named fields is expected")
        return {str(field.arg): _value(field.value) for field in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"this is not of the form {PUBLIC_FORM}: {error}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return ast.literal_eval(node)


def _from_public(fields: Mapping[str, Any], nodes: int, multiplier: int) -> dict[str, list[str]]:
    picked, outputs = {}, range(FIRST_NODE + nodes - multiplier, FIRST_NODE + nodes)
    for kind in KINDS:
        concat = fields.get(f"{kind}_concat", outputs)
        if not isinstance(concat, (range, Sequence)) or len(concat) != len(outputs) or list(concat) != list(outputs):
            raise GenotypeError(f"{kind}_concat is {concat!r}, and the output of this network's cells is {list(outputs)}.")
        reads = [_edge(kind, found) for found in (fields[kind] if isinstance(fields[kind], Iterable) else ())]
        if len(reads) != READS * nodes:
            raise GenotypeError(f"{kind} has {len(reads)} edges; with {nodes} nodes a cell keeps {READS * nodes}.")
        for place in range(nodes):
            picked[f"{kind}{FIRST_NODE + place}"] = reads[READS * place : READS * (place + 1)]
    return picked


def _edge(kind: str, found: Any) -> str:
    if not isinstance(found, Sequence) or len(found) != 2 or not isinstance(found[0], str) or not isinstance(found[1], int):
        raise GenotypeError(f"an edge of {kind} is a pair such as ('sep_conv_3x3', 0), not {found!r}.")
    return pick(found[0], found[1])
