"""Diagrams are those of the modules, counted by hand; in a drawing, no text and no arrow lies over another part."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Line
from torch import nn

from sr_nas.classification.darts import DARTS
from sr_nas.classification.darts_space import DARTSSpace
from sr_nas.classification.nasbench201 import NASBench201, NASBench201Space
from sr_nas.contracts import Diagram, Edge, Network, Node, arrows
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.networks.dlsr import DLSR
from sr_nas.networks.imdn import IMDN
from sr_nas.networks.plain import PLAIN
from sr_nas.report.drawings import Plan, draw, drawing_figure, lanes_of
from sr_nas.spaces.dlsr import DLSRSpace
from sr_nas.spaces.imdn import IMDNSpace
from sr_nas.spaces.plain import PlainSpace

LINKS = "cell1+cell2,cell3+cell1,cell1+cell4,cell3+cell5"


def diagrams(network: Network) -> list[Diagram]:
    return network.drawing(network.genotype)


def pairs(diagram: Diagram) -> set[tuple[str, str]]:
    assert len(set(diagram.edges)) == len(diagram.edges)
    return {(edge.source, edge.target) for edge in diagram.edges}


def channels(node: Node) -> tuple[int, int]:
    before, after = re.findall(r"(\d+) → (\d+)", node.note)[0]
    return int(before), int(after)


def test_a_block_of_imdn() -> None:
    network = IMDN(3, nf=16, num_blocks=3, genotype="conv_5x5_bn,dsconv_3x3,conv_3x3,dil_dsconv_5x5")
    block, chained = diagrams(network)
    assert [block.nodes[f"conv{place}"].text for place in (1, 2, 3, 4)] == network.genotype.names
    assert len(block.nodes) == 10 and len(pairs(block)) == 1 + 3 + 4 + 4 + 1
    assert [edge.text for edge in block.edges if edge.target == "concat"] == ["4"] * 4
    assert [edge.text for edge in block.edges if edge.target in ("conv2", "conv3", "conv4")] == ["12"] * 3
    assert {edge for edge in block.edges if edge.side < 0} == {Edge("input", "sum", side=-1)}
    for label, module in zip(("conv1", "conv2", "conv3", "conv4"), network.blocks[0].convs, strict=True):  # type: ignore[arg-type]
        convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        assert channels(block.nodes[label]) == (convs[0].in_channels, convs[-1].out_channels)
    assert len(chained.nodes) == 11 and len(pairs(chained)) == 3 + 2 + 3 + 4 + 1
    assert {source for source, target in pairs(chained) if target == "fuse"} == {"block1", "block2", "block3"}
    for name in ("head", "body", "tail"):
        conv = getattr(network, name)
        assert channels(chained.nodes[name]) == (conv.in_channels, conv.out_channels)


def test_the_links_of_dlsr() -> None:
    network = DLSR(2, 8, 6, f"conv_1x1,sep_conv_7x7,dil_conv_5x5,{LINKS}")
    cell, chained = diagrams(network)
    assert [cell.nodes[label].text for label in ("op1", "op2", "op3")] == ["conv_1x1", "sep_conv_7x7", "dil_conv_5x5"]
    assert len(cell.nodes) == 12 and len(pairs(cell)) == 11 + 3 + 3
    assert {("input", "sum1"), ("sum1", "sum2"), ("sum2", "sum3"), ("sum2", "concat")} <= pairs(cell)
    links = {(source, target) for source, target in pairs(chained) if source[:4] == target[:4] == "cell"}
    into = {number: set(names.split("+")) for number, names in enumerate(LINKS.split(","), 3)}
    assert links == {("cell1", "cell2")} | {(source, f"cell{number}") for number, names in into.items() for source in names}
    supernet = DLSRSpace(2, 8, 6)
    every = Genotype("DLSR", tuple((label, choice.candidates) for label, choice in supernet.choices().items()))
    links = {pair for pair in pairs(supernet.drawing(every)[1]) if pair[0][:4] == pair[1][:4] == "cell"}
    assert len(links) == 6 * 5 / 2


def test_the_blocks_of_plain() -> None:
    names = "16,conv_3x3_2,spab,skip,none,skip,pa"
    block, chained = diagrams(PLAIN(3, num_blocks=3, genotype=names))
    assert pairs(block) == {("input", "body"), ("body", "attention"), ("input", "attention"), ("attention", "output")}
    blocks = [chained.nodes[f"block{number}"] for number in (1, 2, 3)]
    assert [(node.text, node.look) for node in blocks] == [("conv_3x3_2", "searched"), ("skip", "faint"), ("skip", "searched")]
    assert channels(chained.nodes["head"]) == (3, 16) and channels(chained.nodes["tail"]) == (16, 27)
    assert len(chained.nodes) == 9 and len(pairs(chained)) == 8 + 1
    assert blocks[0].width < diagrams(PLAIN(2, nf=24, num_blocks=1))[1].nodes["block1"].width
    assert len(diagrams(PLAIN(2, num_blocks=5, shared=True))[1].nodes) == 11
    space = PlainSpace(2, nf=[8, 16], num_blocks=2)
    supernet = space.drawing(Genotype("PLAIN", tuple((label, ("mixed",)) for label in space.choices())))[1]
    assert supernet.nodes["block2"] == Node("mixed", "2, attention: mixed", "searched", 1.25)


def test_cells_of_classifiers() -> None:
    normal, reduction = diagrams(DARTS(channels=2, num_cells=3))
    assert [edge for edge in normal.edges if edge.target == "4"] == [
        Edge("1", "4", "sep_conv_3x3", "searched", 1),
        Edge("0", "4", "skip_connect", "searched", -1),
    ]
    assert len(normal.nodes) == len(reduction.nodes) == 7 and len(pairs(normal)) == len(pairs(reduction)) == 8 + 4
    space = DARTSSpace(channels=2, num_cells=3)
    cells = space.drawing(Genotype("DARTS", tuple((label, ("mixed",)) for label in space.choices())))
    assert [len(pairs(cell)) for cell in cells] == [14 + 4] * 2 and {edge.text for edge in cells[0].edges} == {"mixed", ""}
    (cell,) = diagrams(NASBench201(channels=2, num_cells=1, genotype=["none", *["nor_conv_1x1"] * 4, "skip_connect"]))
    assert pairs(cell) == {(str(a), str(b)) for a, b in combinations(range(4), 2)}
    assert [edge for edge in cell.edges if edge.text != "nor_conv_1x1"] == [
        Edge("0", "1", "none", "faint", -1),
        Edge("2", "3", "skip_connect", "searched", -1),
    ]
    searched = NASBench201Space(channels=2, num_cells=1, edge_normalization=True)
    assert len(searched.drawing(Genotype("NASBench201", tuple((label, ("a",)) for label in searched.choices())))[0].edges) == 6


@pytest.mark.parametrize(
    "build",
    [
        lambda: DARTSSpace(channels=2, num_cells=3),
        lambda: NASBench201Space(channels=2, num_cells=1),
        lambda: IMDNSpace(2, nf=16, num_blocks=2),
        lambda: DLSRSpace(2, 8, 5),
        lambda: PlainSpace(2, nf=16, num_blocks=2),
    ],
    ids=["DARTS", "NASBench201", "IMDN", "DLSR", "PLAIN"],
)
def test_what_a_supernet_selects_is_drawn_as_its_network(build: Callable[[], Any]) -> None:
    space = build()
    weights = {label: torch.rand(len(choice.candidates)) for label, choice in space.choices().items()}
    genotype = space.decode(weights)
    assert space.drawing(genotype) == space.derive(genotype).drawing(genotype) != []


@pytest.mark.parametrize("in_a_row", [False, True])
def test_lanes_and_boxes_stay_apart(in_a_row: bool) -> None:
    """Random diagrams: ways of different lanes of one side run apart, end at the sides of their nodes, and miss all boxes."""
    draws = random.Random(3)
    for _ in range(40):
        nodes = {str(number): Node(draws.choice(["+", "a", "a wide one"])) for number in range(7)}
        chosen = draws.sample(list(combinations(nodes, 2)), 9)
        edges = [Edge(*pair, draws.choice(["", "text"]), side=draws.choice([-1, 1])) for pair in chosen]
        plan = Plan(Diagram("", nodes, edges, in_a_row=in_a_row))
        drawn = [edge for lane in plan.lanes for edge in lane.edges] + plan.straight
        assert sorted(drawn, key=str) == sorted(edges, key=str)
        for one, other in combinations(plan.lanes, 2):
            overlap = one.side == other.side and one.first < other.last and other.first < one.last
            assert not (overlap and one.level == other.level)
        for lane in plan.lanes:
            for edge in lane.edges:
                start, *bends, end = plan.way(edge, lane)
                for (along, across), name in ((start, edge.source), (end, edge.target)):
                    assert abs(along - plan.middles[name]) <= plan.boxes[name][0] / 2
                    assert 0 < across * lane.side <= plan.boxes[name][1] / 2 + 1e-9
                assert all(across * lane.side > plan.half for _, across in bends)


def test_arrows_of_one_node_do_not_cross() -> None:
    draws, checked = random.Random(5), 0
    for _ in range(40):
        nodes = {str(number): Node("a") for number in range(7)}
        edges = [Edge(*pair, "text") for pair in draws.sample(list(combinations(nodes, 2)), 8)]
        plan = Plan(Diagram("", nodes, edges, in_a_row=True))
        for one, other in combinations(plan.lanes, 2):
            (first,), (second,) = one.edges, other.edges
            if {first.source, first.target} & {second.source, second.target}:
                assert not Line(plan.way(first, one)).intersects_path(Line(plan.way(second, other)), filled=False)
                checked += 1
    assert checked > 100


NETWORKS = {
    "IMDN": lambda: IMDN(4, nf=128, num_blocks=9, genotype=["dil_dsconv_5x5_bn"] * 4),
    "DLSR": lambda: DLSR(2, 8, 6, f"sep_conv_7x7,sep_conv_7x7,sep_conv_7x7,{LINKS}"),
    "PLAIN": lambda: PLAIN(2, num_blocks=4, genotype="64,conv_3x3_2,spab,skip,none,bsconv_3x3_2,esa,dwconv_7x7,pa"),
    "DARTS": lambda: DARTS(channels=2, num_cells=3, genotype="PDARTS"),
    "NASBench201": lambda: NASBench201(channels=2, num_cells=1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_texts_touch_nothing_and_lie_within(name: str) -> None:
    figure = drawing_figure(diagrams(NETWORKS[name]()), name, "a note")
    width, height = figure.canvas.get_width_height()
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    assert len(texts) > 8
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in texts)
    assert not any(one.overlaps(other) for one, other in combinations(texts, 2))
    patches = figure.axes[0].patches
    for box in (patch.get_window_extent(renderer) for patch in patches if isinstance(patch, FancyBboxPatch)):
        within = [
            (box.x0 < text.x0, box.x1 > text.x1, box.y0 < text.y0, box.y1 > text.y1) for text in texts if box.overlaps(text)
        ]
        assert within and all(map(all, within))
    if not diagrams(NETWORKS[name]())[0].in_a_row:  # where texts stand on their arrows
        lines = [patch.get_transform().transform_path(patch.get_path()) for patch in patches if type(patch) is PathPatch]
        assert not any(line.intersects_bbox(text, filled=False) for line in lines for text in texts)


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    network = IMDN(2, nf=8, num_blocks=60)
    with pytest.raises(UserError, match="68 boxes in a line"):
        draw(network, network.genotype, tmp_path / "a.png", "")
    with pytest.raises(UserError, match="has no drawing"):
        draw(SimpleNamespace(arch="a supernet"), network.genotype, tmp_path / "a.png", "")
    assert not list(tmp_path.iterdir())


def test_a_lane_for_each_text_of_a_row_and_one_for_each_node_of_a_column() -> None:
    nodes = {name: Node(name) for name in "abcd"}
    edges = [*arrows(*nodes), Edge("a", "d", "1"), Edge("b", "d", "2")]
    (lane,), row = lanes_of(Diagram("", nodes, edges)), lanes_of(Diagram("", nodes, edges, in_a_row=True))
    assert len(lane.edges) == 2 and [(lane.edges[0].text, lane.level) for lane in row] == [("2", 0), ("1", 1)]
