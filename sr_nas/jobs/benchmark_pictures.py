"""Pictures of the places of a set where the first model gains most and least over bicubic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sr_nas.jobs.benchmark_sets import BenchmarkSet
from sr_nas.jobs.contestants import Contestant
from sr_nas.jobs.measuring import Bench
from sr_nas.metrics.benchmark import bicubic
from sr_nas.options.benchmark import BICUBIC
from sr_nas.report.crops import crop_picture
from sr_nas.runs.measurements import digest, file_digest

Found = dict[str, list[dict[str, Any]]]
"""Set -> the records of its images, in their order."""


def judge(entries: Sequence[Contestant], scale: int) -> Contestant | None:
    """Return the first model of a scale: its best and worst are shown."""
    return next((entry for entry in entries if entry.network is not None and entry.scale == scale), None)


def draw_crops(
    folder: Path, bench: Bench, entries: Sequence[Contestant], sets: Sequence[BenchmarkSet], found: dict[Contestant, Found]
) -> None:
    """Write ``<set>_x<scale>_best.png`` and ``_worst.png`` of every set, unless they are there and would be the same."""
    for one in sets:
        first = judge(entries, one.scale)
        if first is None or one.name not in found[first]:
            continue
        crops = [record["crops"] for record in found[first][one.name]]
        shown = [
            entry for entry in entries if entry.network is not None and one.name in found[entry] and entry.scale == one.scale
        ]
        for which, choose in (("best", max), ("worst", min)):
            index = choose(range(len(crops)), key=lambda number: crops[number][which][0])
            _draw(folder / f"{one.name}_x{one.scale}_{which}.png", bench, shown, one, index, tuple(crops[index][which][1]))


def _draw(file: Path, bench: Bench, shown: Sequence[Contestant], one: BenchmarkSet, index: int, box: Any) -> None:
    name = one.pairs.names[index]
    content = digest(name, box, one.contents[index], one.scale, [(entry.name, entry.identity) for entry in shown])
    key = f"picture {file.name}"
    drawn = bench.kept.get(key)
    if drawn is not None and drawn["content"] == content and file.is_file() and file_digest(file) == drawn["file"]:
        return
    hr, lr = one.pairs.hr(index), one.pairs.lr(index)
    results = [(BICUBIC, bicubic(lr, one.scale))]
    for entry in shown:
        results.append((entry.name, entry.upscale(bench.device)(lr, one.scale)))
        entry.rest()
    crop_picture(file, name, hr, results, box)
    bench.kept.add(key, {"content": content, "file": file_digest(file)})
