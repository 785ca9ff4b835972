"""The results of the model table as tables, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sr_nas.analysis.tables import Table

MACS = ("macs_lr_1280x720", "macs_hr_1280x720")
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
