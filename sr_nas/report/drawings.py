"""Drawings of networks (matplotlib): boxes in a column or a row, arrows straight to the next or along lanes beside them.

A network describes itself by diagrams (:class:`sr_nas.contracts.Diagram`), without a coordinate: all are computed here. Lengths
are inches; along means down a column or right along a row, across means right of a column's middle or below a row's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Line

from sr_nas.contracts import Diagram, Edge, Look
from sr_nas.errors import UserError
from sr_nas.genotype import Genotype
from sr_nas.report.plots import COLOURS, DPI, FAINT, INK, save, text_width

TITLE, TEXT, NOTE = 10.0, 9.0, 7.5
"""Sizes of letters in points."""
MARGIN, HEAD, GAP, CORNER, SUM = 0.15, 0.2, 0.24, 0.07, 0.2
"""Around all; height of a heading; between two nodes; radius of a bend; diameter of the circle of a sum."""
STUB, LANES = 0.17, {False: 0.16, True: 0.27}
"""From the nodes to the first lane; between lanes beside a column, and beside a row, where texts stand on them."""
LONGEST, SHADES = 60, 48
"""Nodes of one diagram, longer than which nobody would read; colours of a .png."""
LOOKS: dict[Look, dict[str, Any]] = {
    "searched": {"facecolor": "#DCEBF7", "edgecolor": COLOURS[0]},
    "fixed": {"facecolor": "#F3F3F3", "edgecolor": FAINT},
    "faint": {"facecolor": "white", "edgecolor": "#BBBBBB", "linestyle": (0, (3, 2))},
    "data": {"facecolor": "white", "edgecolor": "white"},
}

Point = tuple[float, float]
"""(along, across) of a diagram, (x, y) of a figure, y downwards."""


@lru_cache(1000)
def inches(text: str, size: float) -> float:
    """Return the width of a line of text."""
    return text_width(text, size, DPI) / DPI if text else 0.0


@dataclass(frozen=True, eq=False)
class Lane:
    """A way beside the nodes, from the node ``first`` to the node ``last`` (counted from 0); its edges all end there.

    Of two lanes that overlap, the longer one has the higher ``level``, and lies farther from the nodes.
    """

    edges: Sequence[Edge]
    side: int
    first: int
    last: int
    level: int


def lanes_of(diagram: Diagram) -> list[Lane]:
    """Return the lanes of a diagram: one for all edges to a node on one side, but in a row one for each edge with a text."""
    order = {name: index for index, name in enumerate(diagram.nodes)}
    ways: dict[Any, list[Edge]] = {}
    for number, edge in enumerate(diagram.edges):
        if order[edge.target] - order[edge.source] > 1:
            apart = number if diagram.in_a_row and edge.text else None
            ways.setdefault((edge.side, edge.target, apart), []).append(edge)
    spans = [(min(order[edge.source] for edge in edges), order[edges[0].target], edges) for edges in ways.values()]
    lanes: list[Lane] = []
    for first, last, edges in sorted(spans, key=lambda span: (span[1] - span[0], span[0])):
        side = edges[0].side
        taken = {lane.level for lane in lanes if lane.side == side and lane.first < last and first < lane.last}
        lanes.append(Lane(edges, side, first, last, next(level for level in count() if level not in taken)))
    return lanes


class Plan:
    """The coordinates of a diagram.

    Attributes:
        boxes: name -> lengths along and across of a node's box.
        middles: name -> where its middle lies along; across, it is 0.
        length: of all, along.
        reach: side -> how far all goes across.

    Raises:
        UserError: it has more than :data:`LONGEST` nodes.
    """

    def __init__(self, diagram: Diagram) -> None:
        if (nodes := len(diagram.nodes)) > LONGEST:
            raise UserError(f"--draw: {nodes} boxes in a line are too many, {LONGEST} the most. Name fewer blocks.")
        self.diagram, self.lanes, self.row = diagram, lanes_of(diagram), diagram.in_a_row
        beside = {edge for lane in self.lanes for edge in lane.edges}
        self.straight = [edge for edge in diagram.edges if edge not in beside]
        self.boxes = self._boxes()
        self.length = 0.0
        self.middles: dict[str, float] = {}
        for name, (along, _) in self.boxes.items():
            self.length += self._gap(name) if self.middles else 0.0
            self.middles[name] = self.length + along / 2
            self.length += along
        self.half = max(across for _, across in self.boxes.values()) / 2
        texts = [inches(edge.text, NOTE) for edge in self.straight]
        self.reach = {-1: self.half, 1: max([self.half, *([] if self.row else texts)])}
        for lane in self.lanes:
            self.reach[lane.side] = max(self.reach[lane.side], self.across(lane) + 0.1)

    def _boxes(self) -> dict[str, Point]:
        nodes = self.diagram.nodes
        widths = {name: max(inches(node.text, TEXT), inches(node.note, NOTE)) + 0.2 for name, node in nodes.items()}
        boxes = {}
        for name, node in nodes.items():
            height = 0.47 if node.note else 0.29
            width = widths[name] if self.row or node.look == "data" else max(widths.values()) * node.width
            boxes[name] = (SUM, SUM) if node.text == "+" else (width, height) if self.row else (height, width)
        return boxes

    def _gap(self, target: str) -> float:
        """Return the free length before a node: in a row it has room for the texts of all arrows to the node."""
        texts = [inches(edge.text, NOTE) for edge in self.diagram.edges if edge.target == target and edge.text]
        return max(texts) + 0.36 if self.row and texts else GAP

    def across(self, lane: Lane) -> float:
        """Return the distance of a lane from the middle; beside a column, texts stand between the nodes and the lanes."""
        texts = [inches(edge.text, NOTE) for other in self.lanes if other.side == lane.side for edge in other.edges]
        return self.half + STUB + (0.0 if self.row else max(texts)) + lane.level * LANES[self.row]

    def port(self, name: str, lane: Lane, incoming: bool) -> Point:
        """Return where a lane meets a node. Lanes in before lanes out, and those near the nodes outermost, do not cross."""
        index = list(self.boxes).index(name)
        near = sorted((other for other in self.lanes if other.side == lane.side), key=lambda other: other.level)
        ports = [(other, True) for other in near if other.last == index]
        ports += [(other, False) for other in reversed(near) if any(edge.source == name for edge in other.edges)]
        along, across = self.boxes[name]
        offset = (ports.index((lane, incoming)) - (len(ports) - 1) / 2) * min(0.12, 0.8 * along / len(ports))
        is_round = self.diagram.nodes[name].text == "+"
        return self.middles[name] + offset, lane.side * ((along**2 / 4 - offset**2) ** 0.5 if is_round else across / 2)

    def way(self, edge: Edge, lane: Lane | None) -> list[Point]:
        """Return the corners of an edge's way, straight or along its lane."""
        if lane is None:
            ends = (edge.source, 1), (edge.target, -1)
            return [(self.middles[name] + sign * self.boxes[name][0] / 2, 0.0) for name, sign in ends]
        start, end, across = self.port(edge.source, lane, False), self.port(edge.target, lane, True), self.across(lane)
        return [start, (start[0], lane.side * across), (end[0], lane.side * across), end]

    def text(self, edge: Edge, lane: Lane | None) -> Point:
        """Return where an edge's text stands: in a row on the arrow before its end; in a column beside it, or above its begin."""
        if lane is not None and not self.row:
            return self.port(edge.source, lane, False)[0] - 0.07, lane.side * (self.half + 0.06)
        before = self.middles[edge.target] - (self.boxes[edge.target][0] + self._gap(edge.target)) / 2
        return before, lane.side * self.across(lane) if lane else 0.0 if self.row else edge.side * 0.06


def rounded(points: Sequence[Point]) -> Line:
    """Return the line through these points, with its corners rounded."""
    vertices: list[Any] = [points[0]]
    codes = [Line.MOVETO]
    for before, corner, after in zip(*(map(np.array, points[first:]) for first in range(3)), strict=False):
        begin, end = (corner + (other - corner) * min(0.5, CORNER / np.abs(other - corner).sum()) for other in (before, after))
        vertices += [begin, corner, end]
        codes += [Line.LINETO, Line.CURVE3, Line.CURVE3]
    return Line([*vertices, points[-1]], [*codes, Line.LINETO])


def draw_edges(axes: Axes, plan: Plan, place: Callable[[Point], Point]) -> None:
    """Draw the arrows of a diagram with their texts; ``place`` maps its points to those of the figure."""
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0, "color": INK, "linewidth": 0.9}
    ways = [(None, plan.straight), *((lane, lane.edges) for lane in sorted(plan.lanes, key=lambda lane: -lane.level))]
    for lane, edges in ways:
        lines = [rounded([place(point) for point in plan.way(edge, lane)]) for edge in edges]
        for line in lines:  # a gap in what it crosses
            axes.add_patch(PathPatch(line, facecolor="none", edgecolor="white", linewidth=3.5))
        for line in lines:
            axes.add_patch(FancyArrowPatch(path=line, **arrow))
        for edge in edges:
            look: dict[str, Any] = {"bbox": LOOKS[edge.look] | {"pad": 2.0}} if plan.row and edge.text else {}
            align = "center" if plan.row else "left" if edge.side > 0 else "right"
            axes.text(*place(plan.text(edge, lane)), edge.text, ha=align, va="center", fontsize=NOTE, color=INK, **look)


def draw_nodes(axes: Axes, plan: Plan, place: Callable[[Point], Point]) -> None:
    """Draw the boxes of a diagram with their texts."""
    write = partial(axes.text, ha="center", va="center", parse_math=False, zorder=4)
    for name, node in plan.diagram.nodes.items():
        (along, across), (x, y) = plan.boxes[name], place((plan.middles[name], 0.0))
        width, height = (along, across) if plan.row else (across, along)
        look = {"zorder": 3, "linewidth": 1.0} | LOOKS[node.look]
        box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=0.05", **look)
        axes.add_patch(Circle((x, y), SUM / 2, **look) if node.text == "+" else box)
        write(x, y - 0.085 if node.note else y, node.text, fontsize=TEXT, color=FAINT if node.look == "faint" else INK)
        write(x, y + 0.115, node.note, fontsize=NOTE, color=FAINT if node.look == "faint" else "#555555")


def draw(network: Any, genotype: Genotype, file: Path, note: str) -> None:
    """Draw what a network, or a supernet that has its method ``drawing``, returns for a genotype, into a .png or .svg file.

    Raises:
        UserError: there is nothing to draw, or a diagram is too long.
    """
    diagrams = network.drawing(genotype) if hasattr(network, "drawing") else []
    if not diagrams:
        raise UserError(f"--draw: {network.arch} has no drawing: its class has no method drawing() that describes one.")
    scale = f" x{network.scale}" if hasattr(network, "scale") else ""
    save(drawing_figure(diagrams, f"{network.arch}{scale}", note), file, SHADES)


def drawing_figure(diagrams: Sequence[Diagram], title: str, note: str) -> Figure:
    """Return a figure of diagrams under a title and a note: columns side by side, rows below each other."""
    plans = [Plan(diagram) for diagram in diagrams]
    x, right = MARGIN, MARGIN + max(inches(title, TITLE), inches(note, NOTE))
    top = bottom = MARGIN + HEAD * (bool(title) + bool(note))
    places = []
    for plan in plans:
        heads = [inches(plan.diagram.title, TITLE), inches(plan.diagram.note, NOTE)]
        head, breadth = HEAD * sum(map(bool, heads)) + 0.08, plan.reach[-1] + plan.reach[1]
        width, height = (plan.length, breadth) if plan.row else (breadth, plan.length)
        left, upper = (MARGIN, bottom + MARGIN) if plan.row else (x, top + MARGIN)
        first, middle = (left, upper + head) if plan.row else (upper + head, left)
        places.append((plan, left, upper, first, middle + plan.reach[-1]))
        x = x if plan.row else left + max(width, *heads) + 2 * MARGIN
        right, bottom = max(right, left + max(width, *heads)), max(bottom, upper + head + height)
    figure = Figure(figsize=(right + MARGIN, bottom + MARGIN), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, right + MARGIN), ylim=(bottom + MARGIN, 0))
    axes.set_axis_off()
    write = partial(axes.text, color=INK, va="center", parse_math=False)
    write(MARGIN, MARGIN + HEAD / 2, title, fontsize=TITLE, fontweight="bold")
    write(MARGIN, MARGIN + 1.5 * HEAD, note, fontsize=NOTE)
    for plan, left, upper, first, middle in places:
        write(left, upper + HEAD / 2, plan.diagram.title, fontsize=TITLE, fontweight="bold")
        write(left, upper + 1.5 * HEAD, plan.diagram.note, fontsize=NOTE)
        place = partial(_place, plan.row, first, middle)
        draw_edges(axes, plan, place)
        draw_nodes(axes, plan, place)
    return figure


def _place(row: bool, first: float, middle: float, point: Point) -> Point:
    along, across = first + point[0], middle + point[1]
    return (along, across) if row else (across, along)
