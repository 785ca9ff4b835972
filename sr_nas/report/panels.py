"""The panels of the live views: what they show, laid out in the room there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sr_nas.report.records import Candidates, Record, macs, number, truth, winners

BORDER = 4
"""Columns that a panel's frame and padding take; its frame takes 2 rows."""

NARROWEST_BETA_COLUMN = 38
COMFORTABLE_BETA_COLUMN = 58


def frame(name: str, parts: Iterable[RenderableType], width: int) -> Panel:
    """Stack the parts in a panel titled with the name of the run."""
    return Panel(
        Group(*parts), title=Text(name, style="bold"), title_align="left", border_style="dim", width=width, box=box.ROUNDED
    )


def progress_rows(rows: Sequence[tuple[str, int, int, str]], width: int) -> RenderableType:
    """Return one bar per (name, done, total, remark), with the names, bars and remarks aligned."""
    counts = [f"{done:,}/{total:,}" for _, done, total, _ in rows]
    taken = max(len(name) for name, *_ in rows) + max(map(len, counts)) + max(len(remark) for *_, remark in rows) + 6
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for (name, done, total, remark), count in zip(rows, counts, strict=True):
        bar = ProgressBar(
            total=max(total, 1), completed=done, width=max(width - taken, 4), complete_style="cyan", finished_style="cyan"
        )
        table.add_row(name, count, bar, Text(remark, no_wrap=True))
    return table


def figures(values: Mapping[str, str]) -> RenderableType:
    """Return values with their names above them."""
    table = Table.grid(padding=(0, 3, 0, 0))
    for _ in values:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in values))
    table.add_row(*(Text(value, style="bold") for value in values.values()))
    return table


def genotype_lines(record: Record) -> list[RenderableType]:
    """Return two lines: the network that the search prefers after an epoch; its MACs, and its true accuracy if it is known."""
    network = f"{record['genotype']['arch']} with {record['params']:,} parameters"
    summary = f"after epoch {record['epoch']}   {network}   lambda {number(record['lambda'])}"
    costs = "   ".join(f"{name}  {value}" for name, value in (macs(record) | truth(record)).items())
    return [Text(summary, no_wrap=True), Text(costs, no_wrap=True)]


def beta_bars(record: Record, choices: Candidates, width: int, height: int) -> RenderableType:
    """Draw the strongest candidates of every choice as bars, what the genotype keeps first and in bold.

    All bars share one scale, from 0 to the largest beta. Choices fill the columns downwards. Where even one row per choice does
    not fit, the last ones are counted instead.
    """
    kept = {label: winners(record, label, names) for label, names in choices.items()}
    columns, rows, shown = _fit(choices, kept, width, height)
    per_column = math.ceil(len(shown) / columns)
    label_width = max(map(len, shown))
    name_width = max(len(name) for label in shown for name in choices[label])
    bar_width = max((width + 2) // columns - label_width - name_width - 11, 4)
    longest = max(float(np.nan_to_num(record["beta"][label]).max()) for label in shown)
    outer = Table.grid(padding=(0, 2, 0, 0))
    cells = []
    for start in range(0, len(shown), per_column):
        cell = Table.grid(padding=(0, 1, 0, 0))
        cell.add_column(width=label_width)
        cell.add_column(width=name_width)
        for label in shown[start : start + per_column]:
            _add_choice(cell, label, choices[label], record["beta"][label], kept[label], rows, longest, bar_width)
        cells.append(cell)
    outer.add_row(*cells)
    if len(shown) == len(choices):
        return outer
    return Group(outer, Text(f"and {len(choices) - len(shown)} more: enlarge the window", style="dim", no_wrap=True))


def _fit(choices: Candidates, kept: Mapping[str, Sequence[str]], width: int, height: int) -> tuple[int, int, list[str]]:
    """Return the number of columns, the candidates shown per choice, and the labels shown."""
    labels = list(choices)

    def tallest(shown: int, columns: int, rows: int) -> int:
        heights = [max(min(rows, len(choices[label])), len(kept[label])) for label in labels[:shown]]
        per_column = math.ceil(shown / columns)
        return max(sum(heights[start : start + per_column]) for start in range(0, shown, per_column))

    comfortable = min(max(width // COMFORTABLE_BETA_COLUMN, 1), len(labels))
    narrow = min(max(width // NARROWEST_BETA_COLUMN, 1), len(labels))
    for columns in range(comfortable, narrow + 1):
        for rows in range(max(map(len, choices.values())), 0, -1):
            if tallest(len(labels), columns, rows) <= height:
                return columns, rows, labels
    fitting = [shown for shown in range(1, len(labels)) if tallest(shown, min(narrow, shown), 1) < height]
    shown = max(fitting, default=1)
    return min(narrow, shown), 1, labels[:shown]


def _add_choice(
    table: Table,
    label: str,
    names: Sequence[str],
    beta: Sequence[float],
    kept: Sequence[str],
    rows: int,
    longest: float,
    bar_width: int,
) -> None:
    order = sorted(range(len(names)), key=lambda index: (names[index] not in kept, -beta[index]))
    for position, index in enumerate(order[: max(rows, len(kept))]):
        won = names[index] in kept
        colour = "green" if won else "bright_black"
        # A search that diverged has a beta of NaN, which no bar can show; its figure does.
        length = float(np.nan_to_num(beta[index]))
        table.add_row(
            Text(label if position == 0 else "", style="bold", no_wrap=True),
            Text(names[index], style="bold green" if won else "", no_wrap=True),
            ProgressBar(total=longest or 1.0, completed=length, width=bar_width, complete_style=colour, finished_style=colour),
            Text(f"{beta[index]:.3f}", style="bold" if won else "", no_wrap=True),
        )
