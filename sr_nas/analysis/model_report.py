"""What the model table shows: its tables, Markdown and CSV, and crops where a model gains most and least over bicubic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sr_nas.analysis.tables import Table
from sr_nas.metrics import luma, psnr
from sr_nas.report.picture import Box, Image, comparison_figure, window_sums
from sr_nas.report.plots import Values, save

MACS = ("macs_lr_1280x720", "macs_hr_1280x720")
NO_ERROR = 0.01
"""Mean squared errors below this, which is 68 dB, count as this."""
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS"}


def tables(results: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a benchmark's results: the scores at every scale, the networks' size, then time and memory."""
    sets, models, metrics = results["sets"], results["models"], results["metrics"]
    if not sets:
        return
    for scale in sorted({row["scale"] for row in models}):
        rows = [row for row in models if row["scale"] == scale]
        cells = [{"model": row["name"]} | {name: _scores(row["sets"].get(name), metrics) for name in sets} for row in rows]
        yield Table(cells, f"x{scale}, {' / '.join(NAMES[name] for name in metrics)}")
    sizes = [
        {"model": row["name"], "scale": f"x{row['scale']}", "parameters": f"{row['params']:,}"}
        | {f"MACs, {name[5:7].upper()}": f"{row[name] / 1e9:.2f} G" for name in MACS}
        for row in models
        if "params" in row
    ]
    if sizes:
        yield Table(sizes, "size")
    running = []
    for row in models:
        seconds = {name: f"{row['sets'][name]['seconds']:.3f}" if name in row["sets"] else "-" for name in sets}
        memory = max((numbers["memory_bytes"] or 0 for numbers in row["sets"].values()), default=0)
        texts = {"model": row["name"], "scale": f"x{row['scale']}", **seconds}
        running.append(texts | {"memory": f"{memory / 1e6:.0f} MB" if memory else "-"})
    yield Table(running, "seconds per image, and memory")


def _scores(numbers: dict[str, Any] | None, metrics: Sequence[str]) -> str:
    if numbers is None:
        return "-"
    texts = (f"{numbers[name]:.2f}" if name == "psnr" else f"{numbers[name]:.4f}" for name in metrics)
    return " / ".join(text.removeprefix("0") if text.startswith("0.") else text for text in texts)


def explanations(results: dict[str, Any]) -> dict[str, str]:
    """Return what the figures of the tables mean."""
    return {
        "MACs, LR": "multiply-adds (fvcore) for an LR input of 1280x720; with ensemble, of its eight passes",
        "MACs, HR": "the same for an HR output of 1280x720",
        "device": results["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        **results["protocol"],
    }


def markdown(results: dict[str, Any]) -> str:
    """Return the tables, their explanations and the problems in Markdown."""
    parts = [f"# {results['name']}", *(f"## {table.title}\n\n{table.markdown()}" for table in tables(results))]
    parts += ["## Protocol", "\n".join(f"- {what}: {how}" for what, how in explanations(results).items())]
    if results["problems"]:
        parts += ["## Not measured", "\n".join(f"- {problem['where']}: {problem['text']}" for problem in results["problems"])]
    return "\n\n".join(parts) + "\n"


def csv_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for every model and set, with unrounded numbers."""
    scores, columns = [*results["metrics"], "seconds", "memory_bytes"], ("params", *MACS, "ensemble", "tile", "precision")
    return [
        {"model": row["name"], "scale": row["scale"], "set": name, "images": len(numbers["images"])}
        | {key: numbers[key] for key in scores}
        | {key: row.get(key) for key in columns}
        for row in results["models"]
        for name, numbers in row["sets"].items()
    ]


def extreme_gains(sr: Image, baseline: Image, hr: Image, shave: int, side: int) -> dict[str, tuple[float, Box]]:
    """Return ``{"best": (gain, box), "worst": (gain, box)}`` of one image, by the errors of Y in every square.

    The best square is where the baseline's mean squared error exceeds that of ``sr`` most; its gain is the difference. A ratio
    would not tell a square full of detail from one that is half empty. The worst is where ``sr`` has the least PSNR over the
    baseline; its gain is in dB, negative where the baseline is nearer to HR. It is looked for where the baseline errs at least
    as much as in the mean over all squares: in the sky, for example, there is nothing to gain. Of equal squares the first in
    reading order is taken.

    Args:
        sr: the result, uint8 [H, W, 3], RGB; the other two likewise.
        baseline: the result that it is compared with.
        hr: the original.
        shave: pixels at each border that no square reaches into.
        side: of the squares in pixels; less where the shaved image is smaller.
    """
    inner = (slice(shave, hr.shape[0] - shave), slice(shave, hr.shape[1] - shave))
    errors = [squared_error(image, hr)[inner] for image in (baseline, sr)]
    side = min(side, *errors[0].shape)
    before, after = (window_sums(error, side) / side**2 for error in errors)
    removed = before - after
    decibels = 10 * np.log10(before.clip(NO_ERROR) / after.clip(NO_ERROR))
    decibels[before < min(before.mean(), before.max())] = np.inf
    extremes = {}
    for which, gains, position in (("best", removed, removed.argmax()), ("worst", decibels, decibels.argmin())):
        top, left = (int(index) for index in np.unravel_index(position, gains.shape))
        extremes[which] = (float(gains[top, left]), (left + shave, top + shave, left + shave + side, top + shave + side))
    return extremes


def squared_error(image: Image, hr: Image) -> Values:
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
    columns = [(f"{name}, HR", hr)]
    for title, image in results:
        score = psnr(image[top:bottom, left:right], hr[top:bottom, left:right], 0)
        columns.append((f"{title}, equal" if math.isinf(score) else f"{title}, {score:.2f} dB", image))
    save(comparison_figure(columns, box), path)
