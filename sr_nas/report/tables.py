"""The table of a benchmark on the screen, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sr_nas.metrics import luma, psnr
from sr_nas.report.picture import Box, Image, comparison, window_sums
from sr_nas.runs.files import write_text

NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS"}
ABSENT = "-"
MACS = ("macs_lr_1280x720", "macs_hr_1280x720")
COLUMNS = ("params", *MACS, "ensemble", "tile", "precision")


@dataclass(frozen=True)
class Grid:
    """A table as text: its title, headings, and rows of cells."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def finite(value: Any) -> Any:
    """JSON has no infinity: the PSNR of equal images becomes null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def grids(results: dict[str, Any]) -> Iterator[Grid]:
    """Yield the tables of a benchmark's results: the scores at every scale, then the networks' size, then time and memory."""
    if not results["sets"]:
        return
    metrics = " / ".join(NAMES[name] for name in results["metrics"])
    for scale in sorted({row["scale"] for row in results["models"]}):
        rows = [row for row in results["models"] if row["scale"] == scale]
        cells = [[row["name"], *(_scores(row["sets"].get(name), results["metrics"]) for name in results["sets"])] for row in rows]
        yield Grid(f"x{scale}, {metrics}", ["model", *results["sets"]], cells)
    counted = [row for row in results["models"] if "params" in row]
    if counted:
        yield Grid("size", ["model", "scale", "parameters", "MACs, LR", "MACs, HR"], [_size(row) for row in counted])
    headings = ["model", "scale", *results["sets"], "memory"]
    yield Grid("seconds per image, and memory", headings, [_running(row, results["sets"]) for row in results["models"]])


def notes(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the figures mean, as (what, how)."""
    return [
        ("MACs, LR", "multiply-adds (fvcore) for an LR input of 1280x720; with ensemble, of its eight passes"),
        ("MACs, HR", "the same for an HR output of 1280x720"),
        ("device", results["device"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in results["versions"].items())),
        *results["protocol"].items(),
    ]


def print_tables(console: Console, results: dict[str, Any]) -> None:
    """Show the tables, the protocol, and what could not be measured."""
    for grid in grids(results):
        table = Table(title=grid.title)
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="right" if number else "left", no_wrap=number == 0)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    told = Table.grid(padding=(0, 2))
    for what, how in notes(results):
        told.add_row(f"  {what}", how)
    console.print("Protocol", style="bold")
    console.print(told)
    for problem in results["problems"]:
        console.print(
            f"not measured: {problem['where']}: {problem['text']}",
            style="bold red",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def write_markdown(file: Path, results: dict[str, Any]) -> None:
    """Write the tables in Markdown."""
    lines = [f"# {results['name']}", ""]
    for grid in grids(results):
        lines += [f"## {grid.title}", "", _line(grid.headings), _line(["---", *["---:"] * (len(grid.headings) - 1)])]
        lines += [*map(_line, grid.rows), ""]
    lines += ["## Protocol", "", *(f"- {what}: {how}" for what, how in notes(results))]
    if results["problems"]:
        lines += ["", "## Not measured", "", *(f"- {problem['where']}: {problem['text']}" for problem in results["problems"])]
    write_text(file, "\n".join(lines) + "\n")


def write_csv(file: Path, results: dict[str, Any]) -> None:
    """Write a line for every model and set, figures in full; what there is not is empty."""
    scores = [*results["metrics"], "seconds", "memory_bytes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "scale", "set", "images", *scores, *COLUMNS])
    for row in results["models"]:
        for name, found in row["sets"].items():
            figures = [found[key] for key in scores]
            writer.writerow([row["name"], row["scale"], name, len(found["images"]), *figures, *(row.get(key) for key in COLUMNS)])
    write_text(file, text.getvalue())


def _scores(found: dict[str, Any] | None, metrics: Sequence[str]) -> str:
    if found is None:
        return ABSENT
    texts = (f"{found[name]:.2f}" if name == "psnr" else f"{found[name]:.4f}" for name in metrics)
    return " / ".join(text.removeprefix("0") if text.startswith("0.") else text for text in texts)


def _size(row: dict[str, Any]) -> list[str]:
    return [row["name"], f"x{row['scale']}", f"{row['params']:,}", *(f"{row[name] / 1e9:.2f} G" for name in MACS)]


def _running(row: dict[str, Any], sets: Sequence[str]) -> list[str]:
    found = [row["sets"].get(name) for name in sets]
    memory = max((one["memory_bytes"] for one in found if one and one["memory_bytes"] is not None), default=None)
    seconds = [ABSENT if one is None else f"{one['seconds']:.3f}" for one in found]
    return [row["name"], f"x{row['scale']}", *seconds, ABSENT if memory is None else f"{memory / 1e6:.0f} MB"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# MERGED sr_nas.report.tables: Where a network gains most and least over bicubic, and pictures of these places.


NO_ERROR = 0.01
"""Mean squared errors below this, which is 68 dB, count as this."""


def extreme_gains(sr: Image, baseline: Image, hr: Image, shave: int, side: int) -> dict[str, tuple[float, Box]]:
    """Return ``{"best": (gain, box), "worst": (gain, box)}`` of one image, by the errors of Y in every square.

    The best square is where the baseline's mean squared error exceeds that of ``sr`` most; its gain is the difference. A ratio
    would not tell a square full of detail from one that is half empty. The worst is where ``sr`` has the least PSNR over the
    baseline; its gain is in dB, negative where the baseline is nearer to HR. It is looked for where the baseline errs at least
    as much as in the mean over all squares: in the sky, for example, there is nothing to gain. Of equal squares the first in
    reading order is taken.

    Args:
        sr: the result, uint8 [H, W, 3], RGB; the other two likewise.
        baseline: what it is compared with.
        hr: the original.
        shave: pixels at each border that no square reaches into.
        side: of the squares in pixels; of what is left of the image, where that is smaller.
    """
    inner = (slice(shave, hr.shape[0] - shave), slice(shave, hr.shape[1] - shave))
    errors = [squared_error(image, hr)[inner] for image in (baseline, sr)]
    side = min(side, *errors[0].shape)
    before, after = (window_sums(error, side) / side**2 for error in errors)
    removed = before - after
    decibels = 10 * np.log10(before.clip(NO_ERROR) / after.clip(NO_ERROR))
    decibels[before < min(before.mean(), before.max())] = np.inf
    found = {}
    for which, gains, position in (("best", removed, removed.argmax()), ("worst", decibels, decibels.argmin())):
        top, left = (int(index) for index in np.unravel_index(position, gains.shape))
        found[which] = (float(gains[top, left]), (left + shave, top + shave, left + shave + side, top + shave + side))
    return found


def squared_error(image: Image, hr: Image) -> NDArray[np.float64]:
    """Return the squared difference of Y, [H, W]."""
    return (luma(image) - luma(hr)) ** 2


def crop_picture(path: Path, name: str, hr: Image, results: Sequence[tuple[str, Image]], box: Box) -> None:
    """Write the crop of HR and of each result side by side, with the PSNR of the crops.

    Args:
        path: PNG to write.
        name: of the image.
        hr: the original.
        results: (title, image of the size of HR).
        box: the crop.
    """
    left, top, right, bottom = box
    crops = [(title, image[top:bottom, left:right]) for title, image in results]
    scores = [(title, psnr(crop, hr[top:bottom, left:right], 0)) for title, crop in crops]
    titles = [f"{title}, equal" if math.isinf(value) else f"{title}, {value:.2f} dB" for title, value in scores]
    columns = [(f"{name}, HR", hr), *((title, image) for title, (_, image) in zip(titles, results, strict=True))]
    comparison(path, columns, box)
